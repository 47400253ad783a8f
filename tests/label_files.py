"""Label files in every form that is read. All say the same of the same photos."""

import json
from collections.abc import Mapping
from pathlib import Path

CLASSES = ("dog", "traffic light", "person")
PHOTOS = {"a": "a.jpg", "sub/b c": "sub/b c.PNG", "n": "n.tif"}
# What every file below says: `n` is known to show none of the classes in those that say so (NOTHING).
WANTED = {"a": {"person", "dog"}, "sub/b c": {"traffic light"}}
COCO = {
    "images": [{"id": 7.0, "file_name": "a.jpg"}, {"id": 3, "file_name": "sub/b c.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5.0},
        {"id": 2, "image_id": 3, "category_id": 9},
        {"id": 3, "image_id": 7, "category_id": 2},
        {"id": 4, "image_id": 7, "category_id": 5},
    ],
    "categories": [{"id": 5, "name": "person"}, {"id": 2, "name": "dog"}, {"id": 9, "name": "traffic light"}],
}
CVAT = """<annotations><version>1.1</version>
<image id="0" name="x\\a.jpg"><box label="person"/><tag label="dog"/></image>
<image id="1" name="sub/b c.png"><polygon label="traffic light" points="1,2;3,4"/></image>
<image name="n.tif"/></annotations>"""
TASKS = [
    {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [
        {"result": [{"id": "x", "type": "rectangle", "value": {"x": 1}},
                    {"id": "x", "type": "labels", "value": {"labels": ["person"]}}]},
        {"result": [{"id": "y", "type": "polygonlabels", "value": {"points": [], "polygonlabels": ["dog"]}}]}]},
    {"id": 2, "data": {"image": "s3://bucket/x/sub/b%20c.PNG", "text": "a.jpg"}, "annotations": [
        {"was_cancelled": True, "result": []},
        {"result": [{"type": "choices", "value": {"choices": ["traffic light"]}}]}]},
    {"id": 3, "data": {"image": "/data/local-files/?d=photos/n.tif"}, "annotations": [{"result": []}]},
]  # fmt: skip
VOC = "<annotation><filename>x</filename><object><name>{}</name></object><object><name>{}</name></object></annotation>"
FIFTYONE = {"classes": ["dog", "person", "traffic light"], "labels": {"a": [1, 0], "sub/b c": 2, "n": []}}
SAMPLES = [{"filepath": "data/a.jpg", "metadata": None, "truth": {"_cls": "Detections", "detections": [
    {"_cls": "Detection", "label": "person"}, {"_cls": "Detection", "label": "dog"}]}},
    {"filepath": "data/sub/b c.PNG", "truth": {"_cls": "Classification", "label": "traffic light"}}]  # fmt: skip
CODES = "/m/01,Dog\n/m/02,Person\n/m/03,Traffic light\n"

# name: its files; the first is given, or its folder where that ends in /
FORMATS: dict[str, dict[str, str]] = {
    "words": {"labels.txt": '# mine\na person dog\n\n"sub/b c" "traffic light"\nn\n'},
    "words with suffix": {"labels.lst": 'a.jpg person dog\n"sub/b c.PNG" "traffic light"'},
    "words, indices": {"labels.txt": 'a 2 0\n"sub/b c" 1'},
    "colon": {"labels.txt": "a: person, dog\nsub/b c.webp: traffic light\nn:\n"},
    "colon, other separators": {"labels.txt": "a: person;dog\nsub/b c: traffic light;\n"},
    "quoted colon": {"labels.txt": 'a: person, dog\n"sub/b c": traffic light\n'},
    "byte order mark, Windows line ends": {"labels.txt": '\ufeffa person dog\r\n"sub/b c" "traffic light"\r\n'},
    "csv": {"labels.csv": "image,labels\na.jpg,person;dog\nsub/b c.jpg,traffic light\nn.tif,\n"},
    "csv, other columns, quotes": {
        "labels.csv": 'labels,by,Image\n"person; dog",me,./a.jpg\ntraffic  light,,sub/b c\n'
    },
    "csv by its header": {"labels": "image,labels\na,person;dog;person\nsub//b c,traffic light;\n"},
    "csv, two columns of labels": {"l.csv": "file,label1,label2\na.jpg,dog,person\nsub/b c.jpg,traffic light,\nn,,\n"},
    "csv, labels that run over": {"l.csv": "image,labels,,\na.jpg,dog,person,\nsub/b c.jpg,traffic light,,\n"},
    "json lines, a row a label": {
        "l.jsonl": '{"image": "a", "label": "dog"}\n{"image": "sub/b c", "label": "traffic light"}\n'
            '{"image": "a", "label": "person"}'
    },
    "csv, a column twice": {"l.csv": "image,labels,labels\na.jpg,dog,person\nsub/b c.jpg,,traffic light\n"},
    "csv, a row a label": {"l.csv": "ImageID,Class Name,XMin\na,person,0.1\nsub/b c,traffic light,0\na,dog,0.5\n"},
    "csv, semicolons": {"l.csv": "File Name;Labels\na.jpg;person,dog\nsub/b c.jpg;traffic light\n"},
    "csv, sep=": {"l.csv": "sep=;\r\nimage;tags\r\na.jpg;person|dog\r\n;\r\nsub/b c.jpg;traffic light\r\n"},
    "tsv": {"l.tsv": "image\tlabels\na.jpg\tperson, dog\nsub/b c.jpg\ttraffic light\n"},
    "tabs by the header": {"l.txt": "filename\tcategory\na.jpg\tperson;dog\nsub/b c.jpg\ttraffic light\n"},
    "csv, Python lists": {"l.csv": "image,labels\na.jpg,\"['person', 'dog']\"\nsub/b c.jpg,['traffic light']\nn,[]\n"},
    "csv, numpy lists": {"l.csv": "image,labels\na.jpg,['person' 'dog']\nsub/b c.jpg,['traffic light']\n"},
    "csv, JSON lists": {"l.csv": 'image,labels\na.jpg,"[""person"", ""dog""]"\nsub/b c.jpg,"[""traffic light""]"\n'},
    "csv, words of classes": {"l.csv": "image,labels\na.jpg,person dog\nsub/b c.jpg,traffic light\n"},
    "0 and 1": {"_classes.csv": "filename, dog, traffic light, person\na.jpg, 1, 0, 1\nsub/b c.PNG, 0, 1, 0\n"
        "n.tif, 0, 0, 0"},
    "0 and 1, other columns": {"l.csv": ",width,dog,person,traffic light\na.jpg,640,True,true,\n"
        "sub/b c.jpg,32,,,x\n"},
    "-1 and 1": {"l.csv": "image,dog,person,traffic light\na.jpg,1,1,-1\nsub/b c.jpg,-1,-1,1\n"},
    "json lines": {
        "labels.jsonl": '{"image": "a.jpg", "labels": ["person", "dog"]}\n\n{"image": "sub/b c", '
            '"labels": "traffic light"}\n'
        '{"image": "n", "labels": []}'
    },
    "json lines in .json": {
        "l.json": '{"image": "a.jpg", "labels": ["person", "dog"]}\n{"image": "sub/b c", "labels": ["traffic light"]}\n'
    },
    "Hugging Face": {
        "train/metadata.jsonl": '{"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 3, 4]], '
            '"categories": ["person", "dog"]}}\n'
        '{"file_name": "sub/b c.PNG", "label": "traffic light"}\n'
    },
    "Hugging Face, a folder": {"photos/": "", "photos/metadata.csv":
        "file_name,labels\na.jpg,dog;person\nsub/b c.PNG,traffic light"},
    "json by id": {"l.json": json.dumps({"a": ["person", "dog"], "sub/b c": ["traffic light"], "n": []})},
    "json array in an object": {
        "l.json": json.dumps({"data": [{"image": "a", "tags": ["dog", "person"]}, {"image": "b c", "tags":
            "traffic light"}]})
    },
    "json array": {
        "l.json": json.dumps([{"file": "a.jpg", "tags": ["person", "dog"]}, {"file": "x/b c.png", "tags": [
            "traffic light"]}])
    },
    "json array, several lines": {
        "l": json.dumps([{"path": "a.jpg", "labels": {"dog": True, "person": 1, "traffic light": 0}},
                         {"path": "sub/b c.png", "labels": [{"label": "traffic light", "score": 1}]}], indent=1)
    },
    "json by image": {"l.json": json.dumps({"a.jpg": ["person", "dog"], "sub/b c.png": "traffic light", "n.tif": []})},
    "coco": {"instances.json": json.dumps(COCO)},
    "coco, Windows paths": {"c.json": json.dumps(COCO).replace('"a.jpg"', r'"images\\1\\a.jpg"').replace("sub/",
        r"D:\\sub\\")},
    "lvis": {"l.json": json.dumps(COCO).replace('"file_name": "',
        '"coco_url": "http://images.cocodataset.org/train2017/')},
    "coco, a folder": {"r/": "", "r/train/_annotations.coco.json": json.dumps(COCO)},
    "fiftyone": {"labels.json": json.dumps(FIFTYONE)},
    "fiftyone, samples": {"samples.json": json.dumps({"samples": SAMPLES})},
    "cvat": {"annotations.xml": CVAT},
    "cvat, a folder": {"x/": "", "x/annotations.xml": CVAT},
    "label studio": {"l.json": json.dumps(TASKS)},
    "label studio, short": {
        "l.json": json.dumps([{"image": "/data/upload/1/0a1b2c3d-a.jpg", "label": [{"rectanglelabels": ["dog"], "x":
            1}],
                               "choice": "person", "id": 1}, {"image": "/data/upload/1/00000000-b c.PNG", "annotator":
                                   1,
                               "choice": {"choices": ["traffic light"]}}])
    },
    "labelme": {
        "j/": "",
        "j/a.json": json.dumps({"shapes": [{"label": "dog"}], "imagePath": "..\\photos\\a.jpg", "flags": {"person":
            True}}),
        "j/sub/x.json": json.dumps({"shapes": [{"label": "traffic light"}], "imagePath": "b c.PNG", "flags": {"dog":
            False}}),
        "j/n.json": json.dumps({"shapes": [], "imagePath": "n.tif"}),
    },
    "labelme, one file": {"a.json": json.dumps({"shapes": [{"label": "dog"}, {"label": "person"}], "imagePath":
        "a.jpg"})},
    "voc": {"x/": "", "x/a.xml": VOC.format("person", "dog"), "x/sub/b c.xml": VOC.format("traffic light",
        "traffic light"),
            "x/n.xml": "<annotation/>", "x/._a.xml": "x", "x/__MACOSX/a.xml": "x"},
    "voc, class lists": {
        "m/": "", "m/dog_train.txt": "a  1\nn -1\n", "m/person_train.txt": "a  0\nn -1\n", "m/train.txt": "a\nn",
    },
    "yolo": {
        "y/data.yaml": "train: ../train/images\nnames: [dog, person, traffic light]\nnc: 3\n",
        "y/train/labels/a.txt": "0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 .1 0.3 0.3 1e-3 1\n",
        "y/train/labels/sub/b c.txt": "2 0.5 0.5 0.1 0.1\n", "y/valid/labels/n.txt": "", "y/README.roboflow.txt":
            "Hello",
    },
    "yolo, a folder": {
        "y/labels/": "", "y/classes.txt": "dog\nperson\ntraffic light\n", "y/labels/a.txt":
            "0 0.5 0.5 0.1 0.1\n1 0 0 0 0",
        "y/labels/sub/b c.txt": "2 0.5 0.5 0.1 0.1\n",
    },
    "yolo, names by number": {
        "y.yml": "names:\n  0: dog\n  7: person\n", "labels/a.txt": "0 0.5 0.5 0.1 0.1\n7 0.2 0.2 0.1 0.1\n",
    },
    "open images": {
        "l/train-annotations-bbox.csv": "ImageID,Source,LabelName,Confidence\na,x,/m/01,1\na,x,/m/02,1\na,x,/m/03,0\n"
        "sub/b c,x,/m/03,1\nn,x,/m/01,0\n",
        "l/class-descriptions-boxable.csv": CODES,
    },
    "open images, a folder": {
        "train/": "", "train/labels/classifications.csv": "ImageID,LabelName,Confidence\na,/m/01,1\na,/m/02,1\n"
            "b c,/m/03,1\n",
        "train/metadata/classes.csv": CODES,
    },
}  # fmt: skip
NOTHING = {
    "words",
    "colon",
    "csv",
    "csv, two columns of labels",
    "csv, Python lists",
    "0 and 1",
    "json lines",
    "json by image",
    "json by id",
    "fiftyone",
    "cvat",
    "cvat, a folder",
    "label studio",
    "labelme",
    "voc",
    "voc, class lists",
    "yolo",
    "open images",
}
PART = {"labelme, one file", "voc, class lists", "yolo, names by number"}  # of `a` alone


def write_form(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files of a form; returns the one, or the folder, that is given to --labels."""
    for file, data in files.items():
        path = folder / file
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.write_bytes(data)
    return folder / next(iter(files))
