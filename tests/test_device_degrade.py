"""--degrade on the device against data.degrade, and against theory where it draws other values."""

import numpy as np
import pytest
import torch
from torch import Tensor

from data.cache import DeviceImages
from data.degrade import DEGRADATIONS, parse_degradation
from data.device_degrade import on_device
from tests.builders import FAST, TINY, same_state, words
from tests.builders import image as random_values
from tests.cli import InProcess, records, weights

CPU = torch.device("cpu")
SAMPLES = {
    "noise": "noise:25",
    "poisson": "poisson:30",
    "jpeg": "jpeg:40",
    "sr": "sr:2",
}  # else the name alone
TRAINING = (
    *TINY,
    *FAST,
    *words(
        "--degrade blur:1+noise:25 --cache device --gpu_ids -1 --amp off --schedule multistep --milestones 30"
    ),
)


def on_cpu(spec: str, image: np.ndarray, seed: int) -> np.ndarray:
    return parse_degradation(spec)(image, np.random.default_rng(seed))


def there(spec: str, image: np.ndarray, seed: int) -> Tensor:
    return on_device(parse_degradation(spec))(torch.from_numpy(image), np.random.default_rng(seed))


@pytest.mark.parametrize(
    "spec", ["blur", "blur:0.3-6", "sr:2", "sr:4", "gray", "haze", "rain", "haze+blur:1-2", "rain+sr:2"]
)
@pytest.mark.parametrize(("shape", "seed"), [((48, 64, 3), 1), ((24, 20, 1), 2)])
def test_steps_without_noise_equal_those_of_the_cpu(
    spec: str, shape: tuple[int, int, int], seed: int
) -> None:
    image = random_values(*shape, np.float32, seed=seed)
    found = there(spec, image, seed)
    wanted = on_cpu(spec, image, seed)
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    assert np.abs(found.numpy() - wanted).max() < 3e-6


def test_bytes_are_degraded_as_floats() -> None:
    image = random_values(16, 24, 3)
    assert image.dtype == np.uint8
    found = there("gray", image, 0).numpy()
    assert np.abs(found - on_cpu("gray", image.astype(np.float32) / 255, 0)).max() < 1e-6


def test_noise_has_the_sigma_that_the_stream_draws() -> None:
    flat = np.full((256, 256, 3), 0.5, np.float32)
    sigmas = []
    for seed in range(4):
        noise = there("noise:5-50", flat, seed).numpy() - flat
        on_the_cpu = on_cpu("noise:5-50", flat, seed) - flat
        assert (
            noise.std() == pytest.approx(on_the_cpu.std(), rel=0.01) and abs(noise.mean()) < noise.std() / 100
        )
        assert np.abs(np.corrcoef(noise[:, :, 0].ravel(), noise[:, :, 1].ravel())[0, 1]) < 0.02
        again, other = (
            there("noise:5-50", flat, seed).numpy() - flat,
            there("noise:5-50", flat, seed + 9).numpy(),
        )
        assert np.array_equal(noise, again) and not np.array_equal(noise, other - flat)
        sigmas.append(noise.std())
    assert max(sigmas) > 1.5 * min(sigmas)


def test_photons_have_mean_and_variance_of_their_law() -> None:
    for value in (0.1, 0.7):
        found = there("poisson:30", np.full((256, 256, 1), value, np.float32), 3).numpy()
        assert found.mean() == pytest.approx(value, abs=0.003)
        assert found.var() == pytest.approx(value / 30, rel=0.03)
        assert np.allclose(found * 30, np.round(found * 30), atol=1e-4)
    assert there("poisson:30", np.full((8, 8, 1), -0.5, np.float32), 3).abs().max() == 0


def test_every_step_is_there_or_named_as_one_of_the_cpu() -> None:
    for name in DEGRADATIONS:
        chain = parse_degradation(SAMPLES.get(name, name))
        assert chain.on_device == (name != "jpeg")
        if not chain.on_device:
            with pytest.raises(KeyError):
                on_device(chain)
        else:
            assert on_device(chain)(torch.rand(32, 32, 3), np.random.default_rng(0)).isfinite().all()


def test_a_clean_image_is_stored_once_for_both_sides() -> None:
    clean = random_values(32, 32, 3)
    store = DeviceImages(CPU, clean.nbytes)  # room for one
    first, second = store.put(0, [clean, clean])
    assert first is second and store.get(0) is not None and store.free_bytes == 0


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(cli: InProcess) -> None:
    whole = cli.train(*TRAINING, "--max_steps", "6", name="whole")
    assert "draws its noise on the device" in whole.err
    cli.train(*TRAINING, "--max_steps", "3", name="parts")
    cli.train("--resume", "--max_steps", "6", name="parts")
    assert same_state(weights(whole.run), weights(cli.run("parts")))
    assert records(whole.run, "loss")[-1] == records(cli.run("parts"), "loss")[-1]


def test_another_cache_on_resume_is_said(cli: InProcess) -> None:
    cli.train(*TRAINING, "--max_steps", "3")
    resumed = cli.train("--resume", "--cache", "ram", "--max_steps", "6")
    assert "degradation device, now CPU" in resumed.err
