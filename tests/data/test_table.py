import numpy as np
import pytest

from densely.data import complete, folder, load, read_image, table
from densely.errors import DataError, UsageError


@pytest.fixture
def write(draw, tmp_path):
    """write("file,label", "a.png,cat") -> the path of a table; the images a.png to d.png lie beside it."""
    for i, name in enumerate("abcd"):
        draw(f"photos/{name}.png", seed=i)

    def written(*lines, name="labels.csv", encoding="utf-8", end="\n"):
        path = tmp_path / "photos" / name
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return path

    return written


def test_one_label_an_image(write, tmp_path):
    path = write("file,label", "c.png,dog", "a.png,cat", "b.png,dog")
    parts = load(path, size=(40, 40), channels=3)
    assert (parts.val, parts.test, parts.train.source) == (None, None, "labels.csv/train")
    assert parts.train.class_names == ("cat", "dog")
    assert parts.train.labels.dtype == np.int64
    assert parts.train.labels.tolist() == [1, 0, 1]
    for image, name in zip(parts.train.images, "cab", strict=True):
        np.testing.assert_array_equal(image, read_image(tmp_path / "photos" / f"{name}.png", (40, 40), 3))


@pytest.mark.parametrize("separator", ["|", ";", " | "])
def test_several_labels_an_image(write, separator):
    path = write("file,labels", f"a.png,square{separator}red", "b.png,", "c.png,red", f"d.png,red{separator}red|")
    train = load(path).train
    assert train.class_names == ("red", "square")
    assert train.labels.dtype == np.uint8
    assert train.labels.tolist() == [[1, 1], [0, 0], [1, 0], [1, 0]]


def test_a_column_of_zeros_and_ones_for_each_class(write):
    train = load(write("file,square,red", "a.png,1,1", "b.png,0,0", "c.png,1,0")).train
    assert train.class_names == ("square", "red")  # as the columns stand
    assert train.labels.dtype == np.uint8
    assert train.labels.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_parts(write):
    lines = ["file,part,label", "a.png,train,x", "b.png,Validation,y", "c.png,TEST,x", "d.png,train,y"]
    parts = load(write(*lines))
    assert [part.labels.tolist() for part in (parts.train, parts.val, parts.test)] == [[0, 1], [1], [0]]
    assert (parts.val.source, parts.test.source) == ("labels.csv/val", "labels.csv/test")
    assert load(write(*lines[:2], "d.png,train,y", "b.png,valid,y")).val.labels.tolist() == [1]
    assert load(write(*lines[:2], "d.png,train,y", "b.png,val,y")).val.labels.tolist() == [1]


@pytest.mark.parametrize("column", ["file", "image", "filename", "path", "File", " FILENAME "])
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.csv", ";"), ("t.TSV", "\t")])
def test_spellings_and_separators(write, column, name, separator):
    lines = [separator.join(words) for words in ([column, "Label"], ["a.png", "x"], ["b.png", "y"])]
    assert load(write(*lines, name=name)).train.labels.tolist() == [0, 1]


def test_quotes_byte_order_mark_line_ends_and_blank_lines(write, draw):
    draw("photos/deep/one, two.png", seed=9)
    path = write(
        '"file", "label", "notes"', '"deep/one, two.png", "Müll, grün", "he said ""no"""', "", "a.png,b,", ",,",
        encoding="utf-8-sig", end="\r\n",
    )  # fmt: skip
    assert load(path).train.class_names == ("Müll, grün", "b")
    assert load(path).train.labels.tolist() == [0, 1]


def test_absolute_paths_and_links(write, draw, tmp_path):
    far = draw("elsewhere/far.png", seed=5)
    path = write("file,label", f"{far},x", "a.png,y")
    link = tmp_path / "linked.csv"
    link.symlink_to(path)
    assert load(link).train.fingerprint() == load(path).train.fingerprint()


def test_size_and_channels_are_chosen_and_cached_as_a_folder_s(pets, draw, tmp_path):
    files = [f"{kind}/{file.name}" for kind in ("cat", "dog") for file in sorted((pets / kind).iterdir())]
    path = pets / "labels.csv"
    path.write_text("\n".join(["file,label", *(f"{file},{file[:3]}" for file in files)]))
    calls = []
    from_folder = folder.load(pets)
    from_table = load(path, progress=lambda *done: calls.append(done))
    assert from_table.train.fingerprint() == from_folder.train.fingerprint()
    assert calls == []  # decoded already, whichever way it was asked for
    assert load(path, size=(16, 24), channels=1).train.input_shape == (16, 24, 1)


def test_what_a_table_leaves_open_is_completed(write):
    lines = [f"{name}.png,{labels}" for name, labels in zip("abcd", ["x|y", "x", "y", ""], strict=True)]
    parts, _ = complete(load(write("file,labels", *lines)))
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [2, 1, 1]
    assert parts.test.multi_label


# ---- what is refused -------------------------------------------------------------------------------------------------

HEADER = "file,label"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "is empty: name its columns"),
        ([HEADER], "names no images"),
        (["name,label", "a.png,x"], r"has no column file, filename, image or path in its first line 'name,label'"),
        (["file", "a.png"], "has no labels: add a column"),
        (["file,part", "a.png,train"], "has no labels: add a column"),
        (["file,path,label", "a.png,a.png,x"], "line 1 names the columns 'file' and 'path', which mean the same"),
        (["file,x,x", "a.png,1,1"], "line 1 names the columns 'x' and 'x'"),
        (["file,label,labels", "a.png,x,y"], "line 1 names both a column label and a column labels"),
        ([HEADER, "a.png,x", "b.png"], "line 3 has 1 value and the first line 2 columns"),
        ([HEADER, "a.png,x,y"], "line 2 has 3 values and the first line 2 columns"),
        ([HEADER, "a.png,x", 'b.png,"y', "c.png,x"], "line 3 cannot be read .*look at its quotes"),
        ([HEADER, "a.png,x", ",y"], "line 3 names no file"),
        ([HEADER, "a.png,x", "", "z.png,y"], "line 4 names z.png, and there is no such file at .*photos/z.png"),
        ([HEADER, "a.png,x", "../photos/a.png,y"], "line 3 names ../photos/a.png, which .*line 2 names already"),
        ([HEADER, "a.png,x", "b.png,"], "line 3 has no label"),
        ([HEADER + ",part", "a.png,x,train", "b.png,y,trial"], "line 3 has the part 'trial': it must be one of train,"),
        ([HEADER + ",part", "a.png,x,"], "line 2 has the part ''"),
        ([HEADER + ",part", "a.png,x,test", "b.png,y,test"], "has no images to train on"),
        ([HEADER + ",part", "a.png,x,train", "b.png,y,test"], "Class 'y' of .* has no images to train on"),
        (["file,x,y", "a.png,1,1", "b.png,1,2"], "line 3 has '2' in column 'y'.* 0 or 1"),
        (["file,x,y", "a.png,1,1", "b.png,,0"], "line 3 has '' in column 'x'"),
        (["file,x,y", "a.png,1,0"], "Class 'y' of .* has no images to train on"),
        ([HEADER, "a.png,x", "b.png,x"], "has one class, 'x': two are needed"),
        (["file,labels", "a.png,", "b.png,"], "has no classes: two are needed"),
        (["file,x", "a.png,1", "b.png,0"], "has one class, 'x'"),
    ],
)
def test_a_wrong_table_is_told_in_one_sentence(write, lines, message):
    path = write(*lines)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_of_many_names_is_still_told_what_it_lacks(write):
    with pytest.raises(DataError, match="has no column"):
        load(write(",".join(["label", *(f"pixel{i}" for i in range(20_000))]), "cat"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding(write, encoding):
    with pytest.raises(DataError, match=r"labels\.csv, line \d is not UTF-8"):
        load(write(HEADER, "a.png,Müll", encoding=encoding))
    with pytest.raises(DataError, match=r"line 3 is not UTF-8"):
        load(write(HEADER, "a.png,x", "b.png,Müll", encoding="latin-1"))


def test_a_file_that_is_no_image(write):
    path = write(HEADER, "a.png,x", "b.png,y")
    (path.parent / "b.png").write_bytes(b"hello")
    for given in ({}, {"size": (32, 32), "channels": 3}):
        with pytest.raises(DataError, match=r"labels\.csv, line 3: .*b\.png is not a PNG"):
            load(path, **given)


def test_no_table(tmp_path):
    with pytest.raises(UsageError, match=r"no table at .*nowhere\.csv"):
        load(tmp_path / "nowhere.csv")
    with pytest.raises(UsageError, match="no table at"):
        table.load(tmp_path)


def test_a_folder_may_be_called_like_a_table(draw, tmp_path):
    for name in ("a", "b"):
        draw(f"odd.csv/{name}/0.png")
    assert load(tmp_path / "odd.csv").train.class_names == ("a", "b")
