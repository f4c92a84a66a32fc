"""A user's own images: ownership, decoding, and refusals."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedmeta.errors import ConfigError, DataError, FedmetaError, MissingDataError
from fedmeta.tasks import Population, build_family, data_digest, shape_of_tasks, stream
from fedmeta.tasks.families.images import Images
from fedmeta.tasks.file_inputs import Asked
from tests.tasks.own.drawing import SIDE, drawing, told_by, write

CLIENTS = ["anna", "bo b", "jürgen", "zoë"]
CLASSES = ["a", "b", "ç", "d"]


def family(population: Population = Population(3, 0, 1), seed: int = 0, **options: Any) -> Images:  # noqa: B008
    options = {"path": "own", "size": SIDE, "ways": 3, "shots": 1, "queries": 2} | options
    built = build_family("images", options, population, seed)
    assert isinstance(built, Images)
    return built


def seen(built: Images, client: int, count: int = 40) -> set[tuple[int, int, int]]:
    tasks = built.sample(client, count, stream(0, "seen", client))
    both = torch.cat([tasks.support_x, tasks.query_x], dim=1).flatten(0, 1)
    return {told_by(x) for x in both.numpy()}


def test_a_client_draws_its_own_images_and_labels_are_classes(here: Path) -> None:
    write(here / "own", CLIENTS, CLASSES)
    built = family()
    assert sorted(built.names) == sorted(CLIENTS)
    for client, name in enumerate(built.names):
        assert {c for c, _, _ in seen(built, client)} == {CLIENTS.index(name)}
    tasks = built.sample(0, 5, stream(1))
    assert tasks.support_x.shape == (5, 3, 1, SIDE, SIDE)
    assert tasks.query_x.shape == (5, 6, 1, SIDE, SIDE)
    for t in range(5):
        label = {
            told_by(x.numpy())[1]: int(y)
            for x, y in zip(tasks.support_x[t], tasks.support_y[t], strict=True)
        }
        assert len(label) == 3
        for x, y in zip(tasks.query_x[t], tasks.query_y[t], strict=True):
            assert label[told_by(x.numpy())[1]] == int(y)


def test_dealt_again_every_training_image_has_one_owner_and_held_out_clients_keep_theirs(
    here: Path,
) -> None:
    write(here / "own", CLIENTS, CLASSES)
    natural, dealt = family(queries=1), family(queries=1, partition="iid")
    owned = [
        np.concatenate([row[:n] for row, n in zip(c.table, c.sizes, strict=True)]) for c in dealt.clients
    ]
    assert not set(owned[0].tolist()) & set(owned[1].tolist())
    assert len({c for c, _, _ in seen(dealt, 0)}) == 3
    assert torch.equal(natural.sample(3, 4, stream(5)).query_x, dealt.sample(3, 4, stream(5)).query_x)


@pytest.mark.parametrize("partition", ["natural", "iid", "dirichlet"])
def test_without_client_folders_held_out_clients_have_classes_never_seen_in_training(
    partition: str, here: Path
) -> None:
    write(here / "own", [None], list("abcdefghij"), 9)
    built = family(Population(2, 0, 2), ways=2, queries=1, partition=partition, alpha=5.0)
    classes = [{k for _, k, _ in seen(built, client)} for client in range(4)]
    assert classes[2] == classes[3]
    assert len(classes[2]) == 2
    assert not (classes[0] | classes[1]) & classes[2]
    if partition == "natural":
        assert not classes[0] & classes[1]
    images = [seen(built, client) for client in range(4)]
    assert sum(map(len, images)) == len(set.union(*images))


def test_global_labels_number_the_training_classes(here: Path) -> None:
    write(here / "own", [None], list("abcdefghij"), 9)
    built = family(Population(2, 0, 1), ways=2, queries=1, partition="iid", labels="global")
    assert shape_of_tasks("images", {"path": "own", "labels": "global"}) is None
    number: dict[int, set[int]] = {}
    for client in range(2):
        tasks = built.sample(client, 50, stream(0))
        for x, y in zip(tasks.query_x.flatten(0, 1), tasks.query_y.flatten(), strict=True):
            number.setdefault(told_by(x.numpy())[1], set()).add(int(y))
    assert 6 < len(number) <= 8
    assert [number[k] for k in sorted(number)] == [{place} for place in range(built.spec.outputs)]


def test_the_order_and_the_form_of_names_on_disk_do_not_matter(here: Path, tmp_path: Path) -> None:
    write(here / "own", CLIENTS, CLASSES)
    first = family().sample(0, 4, stream(0))
    digest = data_digest("images", {"path": "own"}, Population(4), family)
    other = tmp_path / "other"
    for client in reversed(CLIENTS):
        for label in reversed(CLASSES):
            # As macOS stores names: letters and their accents apart.
            folder = other / client.replace("ü", "u\u0308").replace("ë", "e\u0308") / label
            folder.mkdir(parents=True)
            for index in (3, 1, 0, 2):
                shutil.copy(here / "own" / client / label / f"{index}.png", folder)
    again = family(path=str(other))
    assert torch.equal(first.query_x, again.sample(0, 4, stream(0)).query_x)
    assert data_digest("images", {"path": str(other)}, Population(4), family) == digest
    Image.fromarray(drawing(0, 0, 3)).save(other / "anna" / "a" / "0.png")
    assert data_digest("images", {"path": str(other)}, Population(4), family) != digest


def test_decoded_images_are_mapped_from_the_cache_and_a_damaged_one_is_made_again(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here / "own", CLIENTS, CLASSES)
    first = family().pool.clone()
    (pool,) = (tmp_path / "cache").glob("decoded/images-*/pool.npy")
    pool.write_bytes(pool.read_bytes()[:-1])
    assert torch.equal(family().pool, first)
    monkeypatch.setattr("fedmeta.tasks.families.images.scan", None)
    assert torch.equal(family().pool, first)


def test_every_kind_of_file_shows_the_same_drawing(here: Path) -> None:
    page = drawing(1, 2, 3)
    rgb = np.repeat(page[..., None], 3, axis=2)
    folder = here / "own" / "k l" / "é"
    folder.mkdir(parents=True)
    grey = Image.fromarray(page)
    kinds: dict[str, Image.Image] = {
        "grey.png": grey,
        "rgb.png": Image.fromarray(rgb),
        "rgba.png": Image.fromarray(np.dstack([rgb * 0, 255 - page])),
        "palette.gif": grey.convert("P"),
        "deep.png": Image.fromarray(page.astype(np.uint16) * 257),
        "one bit.tif": grey.convert("1"),
        "cmyk.tif": Image.fromarray(rgb).convert("CMYK"),
    }
    for name, image in kinds.items():
        image.save(folder / name)
    turned = grey.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # shown turned clockwise
    turned.save(folder / "turned.png", exif=exif)
    shutil.copytree(folder, here / "own" / "k l" / "f")
    built = family(Population(1), ways=2, queries=4)
    assert {told_by(x.numpy()) for x in built.inputs(built.pool.float() / 255)} == {(1, 2, 3)}
    read = Images.read_files(built.options, [folder / "rgba.png"], Asked())  # type: ignore[arg-type]
    assert told_by(read.x[0].numpy()) == (1, 2, 3)


def test_photos_keep_their_colours_and_are_standardised(here: Path) -> None:
    folder = here / "own" / "k" / "red"
    folder.mkdir(parents=True)
    photo = np.zeros((20, 20, 3), dtype=np.uint8)
    photo[..., 0], photo[:10, :, 2] = 255, 51
    for index in range(3):
        Image.fromarray(photo).save(folder / f"{index}.bmp")
    shutil.copytree(folder, here / "own" / "k" / "too")
    built = family(Population(1), ways=2, colour="rgb", size=10)
    x = built.sample(0, 1, stream(0)).support_x[0, 0]
    assert x.shape == (3, 10, 10)
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([2.0, -2.0, (0.2 - 0.5) / 0.25]))


def broken(name: str, root: Path) -> dict[str, Any]:
    """Spoil a folder of four clients in one way; return the options that go with it."""
    one = root / "anna" / "a" / "0.png"
    if name == "zero bytes":
        one.write_bytes(b"")
    elif name == "not an image":
        one.write_text("hello")
    elif name == "cut short":
        one.write_bytes(one.read_bytes()[:50])
    elif name == "huge":
        Image.new("1", (9000, 8000)).save(one)
    elif name == "blank":
        Image.new("L", (9, 9)).save(one)
    elif name == "unreadable link":
        one.unlink()
        one.symlink_to(root / "nowhere.png")
    elif name == "a pipe":
        one.unlink()
        os.mkfifo(one)
    elif name == "empty class":
        shutil.rmtree(root / "anna" / "a")
        (root / "anna" / "a").mkdir()
    elif name == "client without classes":
        (root / "carl" / "a").mkdir(parents=True)
        (root / "carl" / "a").rmdir()
    elif name == "too deep":
        (root / "anna" / "a" / "more").mkdir()
    elif name == "image beside classes":
        shutil.copy(one, root / "anna" / "x.png")
    elif name == "mixed layout":
        shutil.copytree(root / "anna" / "a", root / "loose")
    elif name == "look alike":
        shutil.copytree(root / "jürgen", root / "ju\u0308rgen")
    elif name == "few images":
        one.unlink()
        return {"queries": 3}
    elif name == "few classes":
        shutil.rmtree(root / "anna" / "a")
        return {"ways": 4}
    elif name == "as many light as dark":
        for path in sorted(root.rglob("*.png"))[::2]:
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    elif name == "flat":
        for path in root.rglob("*.png"):
            shutil.copy(path, root / "x.png")
        for client in CLIENTS:
            shutil.rmtree(root / client)
    elif name == "no images":
        for path in root.rglob("*.png"):
            path.rename(path.with_suffix(".txt"))
    return OPTIONS.get(name, {})


OPTIONS: dict[str, dict[str, Any]] = {
    "empty path": {"path": " "},
    "nowhere": {"path": "onw"},
    "a file": {"path": "own/anna/a/0.png"},
    "skip nothing": {"skip": ["ana/a"]},
    "skip all": {"skip": CLIENTS},
    "too many ways": {"test_ways": 5},
    "unknown ink": {"ink": "blue"},
    "small size": {"size": 4},
    "no path": {"path": None},
    "few deep": {"samples": 9},
}
CASES = {
    "zero bytes": r"anna/a/0\.png: is empty",
    "not an image": r"anna/a/0\.png: not a PNG",
    "cut short": r"anna/a/0\.png: cannot be read",
    "huge": r"9000 x 8000 pixels: a side may have",
    "blank": r"anna/a/0\.png: is blank",
    "unreadable link": r"anna/a/0\.png cannot be read: No such file",
    "a pipe": r"anna/a/0\.png",
    "empty class": r"anna/a is a class without images: add some, or leave it out: data\.skip = "
    r"\['anna/a'\]",
    "client without classes": "carl is a client without classes",
    "too deep": "more is a folder within a class",
    "image beside classes": r"anna.*images.*folders|anna has both folders and images \('x\.png'\)",
    "mixed layout": "loose holds images, but .*anna folders",
    "look alike": "two folders that look alike",
    "few images": r"shots \+ data\.queries = 1 \+ 3, but client 'anna' has 3 images of 'a'",
    "few classes": r"ways = 4, but client 'anna' has 3 classes.*data\.skip = \['anna'\]",
    "as many light as dark": "set data.ink to",
    "flat": "has 1 images but no folders",
    "no images": "without images|has no images|client without classes",
    "empty path": "data.path is empty: name a folder of images",
    "nowhere": "data.path: nothing at 'onw': did you mean 'own'",
    "a file": "is a file, not a folder",
    "skip nothing": r"data\.skip: nothing at 'ana/a'.*did you mean 'anna/a'",
    "skip all": "no images",
    "too many ways": r"test_ways = 5, but client '.+' has 4 classes",
    "unknown ink": "data.ink: must be",
    "small size": "data.size",
    "no path": "data.path",
    "few deep": "data.samples",
}


@pytest.mark.parametrize("name", CASES)
def test_unusable_input_is_refused_in_one_line_and_nothing_is_written(
    name: str, here: Path, tmp_path: Path
) -> None:
    write(here / "own", CLIENTS, CLASSES)
    options = broken(name, here / "own")
    # Anna is a training client under every seed if all four are.
    with pytest.raises(FedmetaError, match=CASES[name]) as caught:
        family(Population(3, 0, 1) if "test_ways" in options else Population(4), **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, MissingDataError) == (name == "nowhere")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_too_many_clients_are_refused_and_unused_ones_named(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(here / "own", CLIENTS, CLASSES)
    with pytest.raises(ConfigError, match="clients = 5, but own has 4 clients: set clients to 4"):
        family(Population(5))
    family(Population(2))
    assert "2 of the 4 clients of own are not used, such as '" in caplog.text


def test_skipped_and_ignored_files_do_not_matter(here: Path) -> None:
    write(here / "own", CLIENTS, CLASSES)
    (here / "own" / "anna" / "a" / "0.png").write_text("broken")
    (here / "own" / "README.txt").write_text("not an image")
    (here / "own" / "anna" / "a" / "Thumbs.db").write_bytes(b"x")
    (here / "own" / ".DS_Store").write_bytes(b"x")
    with pytest.raises(DataError, match="not a PNG"):
        family()
    built = family(Population(3), skip=["anna/a/0.png", "bo b"])
    assert sorted(built.names) == ["anna", "jürgen", "zoë"]
    assert len(built.items.labels) == 3 * 16 - 1
