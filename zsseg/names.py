"""The names that zsseg asks CLIP for."""

from dataset.spec import DatasetSpec

OWN_DATA = "folder"  # whose prompts a person has written


def class_names(spec: DatasetSpec) -> tuple[tuple[str, ...], ...]:
    """K groups of names: a data set's class names as they are, without synonyms; a person's own prompts."""
    return spec.prompts if spec.name == OWN_DATA else tuple((name,) for name in spec.classes)
