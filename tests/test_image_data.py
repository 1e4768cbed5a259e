"""Image archives in both formats, batches of them, and augmentation that only seed, epoch and image decide."""

import io

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from lightning_modules import EpochSeeds, ImageArchive, load_images
from lightning_modules.data.image_transforms import moved, statistics
from lightning_modules.training.lightning_warnings import quiet_lightning
from snn_async.errors import ConfigError, DataError

SIZE = (8, 6)  # high, wide


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0)
    return np.frombuffer(file.getvalue(), np.uint8)


def smooth_images(count=40):
    """Return images (count, H, W, 3) that JPEG hardly changes, every one different."""
    rows, columns = np.meshgrid(*map(np.arange, SIZE), indexing="ij")
    number = np.arange(count)[:, None, None]
    channels = (10 * rows + 3 * number, 20 * columns + number, 0 * rows + 200 - 2 * number)
    return np.stack(np.broadcast_arrays(*channels), -1).astype(np.uint8)


def jpeg_arrays(images):
    files = [encoded(image) for image in images]
    return {
        "jpeg": np.concatenate(files),
        "offset": np.concatenate([[0], np.cumsum([len(file) for file in files])]),
        "label": (np.arange(len(images)) % 4).astype(np.uint8),
        "classes": np.array(["a", "b", "c", "d"]),
    }


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "images.npz", **jpeg_arrays(smooth_images()))
    return tmp_path / "images.npz"


@pytest.mark.parametrize("gray", [False, True])
def test_jpeg_and_plain_archives_hold_the_same_images(tmp_path, gray):
    images = smooth_images()[..., 0] if gray else smooth_images()
    arrays = jpeg_arrays(images)
    np.savez(tmp_path / "jpeg.npz", **arrays)
    np.savez(tmp_path / "plain.npz", image=images, label=arrays["label"])
    coded, plain = load_images(tmp_path / "jpeg.npz"), load_images(tmp_path / "plain.npz")
    assert coded.pixels.shape == plain.pixels.shape == (40, 1 if gray else 3, *SIZE)
    assert (plain.pixels[7].transpose(1, 2, 0).squeeze() == images[7]).all()
    assert np.abs(coded.pixels.astype(int) - plain.pixels).max() <= 4
    assert (coded.label == plain.label).all() and coded.label.dtype == np.int64


def test_batches_repeat_images_normalized_by_the_training_part(path):
    data = ImageArchive(
        str(path), timesteps=3, batch_size=100, train_size=16, val_fraction=0.2, test_fraction=0.2
    )
    assert data.input_shape == (3, *SIZE) and data.num_classes == 4
    assert {part: len(indices) for part, indices in data.parts.items()} == {"train": 16, "val": 8, "test": 8}
    x, y, ids = next(iter(data.train_dataloader()))
    assert x.shape == (3, 16, 3, *SIZE) and x.dtype == torch.float32 and (x[0] == x[2]).all()
    torch.testing.assert_close(x.mean((0, 1, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 1, 3, 4), correction=0), torch.ones(3))
    assert sorted(y.tolist()) == sorted([0, 1, 2, 3] * 4) and set(ids.tolist()) == set(data.parts["train"])
    pixels, label = data.images
    mean, std = statistics(pixels[data.parts["train"]])
    x, y, ids = next(iter(data.test_dataloader()))
    expected = (torch.from_numpy(pixels[ids]) / 255 - mean[:, None, None]) / std[:, None, None]
    assert torch.equal(x[1], expected) and (y.numpy() == label[ids]).all()
    x, _, ids = next(iter(ImageArchive(str(path), normalize=False).test_dataloader()))
    assert torch.equal(x[0], torch.from_numpy(pixels[ids]) / 255)


def test_moving_and_mirroring_by_hand():
    image = torch.arange(1.0, 7).reshape(1, 1, 2, 3).expand(3, 1, 2, 3)
    shift, flip = torch.tensor([[1, 1], [2, 0], [1, 2]]), torch.tensor([False, False, True])
    assert moved(image, shift, flip, 1)[:, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[0, 4, 5], [0, 0, 0]],
        [[0, 3, 2], [0, 6, 5]],
    ]


class Watch(pl.LightningModule):
    """Keeps every batch it sees, by (stage, epoch, sample)."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), {}

    def _see(self, stage, batch):
        for b, sample in enumerate(batch.sample_ids.tolist()):
            self.seen[stage, self.current_epoch, sample] = batch.x[:, b].clone()

    def training_step(self, batch, index):
        self._see("train", batch)
        torch.rand(3)  # what a network draws must not matter
        return self.weight

    def validation_step(self, batch, index):
        self._see("val", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def watch(path, **options):
    torch.manual_seed(5)
    model = Watch()
    with quiet_lightning():
        pl.Trainer(
            accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, callbacks=[EpochSeeds()],
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        ).fit(model, datamodule=ImageArchive(str(path), timesteps=2, **options))  # fmt: skip
    return model.seen


def test_augmentation_depends_on_seed_epoch_and_image_only(path):
    whole = watch(path, batch_size=7, random_crop=2, random_flip=True)
    other = watch(path, batch_size=28, random_crop=2, random_flip=True, num_workers=1)
    plain = watch(path, batch_size=7)
    assert whole.keys() == other.keys() == plain.keys()
    assert all(torch.equal(whole[key], other[key]) for key in whole)
    changed = {key for key in whole if not torch.equal(whole[key], plain[key])}
    assert {stage for stage, _, _ in changed} == {"train"} and len(changed) > 40
    assert any(
        not torch.equal(whole["train", 0, i], whole["train", 1, i]) for s, e, i in whole if s == "train"
    )
    assert all(torch.equal(x[0], x[1]) for x in whole.values())


def damaged(arrays, **changes):
    return {key: value for key, value in (arrays | changes).items() if value is not None}


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"jpeg": None}, "lacks image.* image . label or as jpeg"),
        ({"label": np.zeros(39, int)}, r"label has shape \(39,\).* for 40 images"),
        ({"label": np.full(40, -1)}, r"label\[0\] = -1"),
        ({"offset": np.arange(41)}, "offset runs from 0 to 40; it must rise from 0 to the number of bytes"),
        ({"jpeg": None, "image": np.zeros((40, 8, 6))}, "image has shape .* float64; give .* uint8"),
    ],
)
def test_wrong_archives_are_refused(tmp_path, changes, says):
    np.savez(tmp_path / "images.npz", **damaged(jpeg_arrays(smooth_images()), **changes))
    with pytest.raises(DataError, match=says):
        ImageArchive(str(tmp_path / "images.npz")).setup()


def test_damaged_images_are_named(tmp_path, path):
    arrays = jpeg_arrays(smooth_images())
    arrays["jpeg"][arrays["offset"][3] : arrays["offset"][4]] = 0
    np.savez(tmp_path / "zeros.npz", **arrays)
    with pytest.raises(DataError, match=r"zeros.npz: image 3 \(\d+ bytes\) is no whole JPEG"):
        load_images(tmp_path / "zeros.npz")
    odd = smooth_images()
    np.savez(tmp_path / "odd.npz", **jpeg_arrays([*odd[:5], odd[5][:-1], *odd[6:]]))
    with pytest.raises(DataError, match="image 5 is 7 x 6 x 3 and image 0 8 x 6 x 3"):
        load_images(tmp_path / "odd.npz")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="truncated, damaged"):
        load_images(path)
    with pytest.raises(DataError, match="no file"):
        load_images(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    "options, says",
    [
        ({"timesteps": 0}, "timesteps=0: give a whole number of at least 1"),
        ({"random_crop": -1}, "random_crop=-1"),
        ({"random_flip": 1}, "random_flip=1: give True or False"),
        ({"train_size": 0}, "train_size=0"),
        ({"binarize": True}, "binarize: no option of ImageArchive; it has path, timesteps, .*batch_size"),
    ],
)
def test_wrong_options_are_refused(path, options, says):
    with pytest.raises(ConfigError, match=says):
        ImageArchive(str(path), **options)


def test_too_small_a_training_set_is_refused(path):
    with pytest.raises(DataError, match="2 of 28 samples cannot be taken .*stratified=False"):
        ImageArchive(str(path), train_size=2).setup()
