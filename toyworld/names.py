"""What the toy world shows: the classes, and what lies behind them."""

CLASSES = ("house", "car", "fish", "cup", "flower", "boat", "ball", "tree")
BACKGROUNDS = ("grass", "sky", "water", "sand", "brick", "road")
