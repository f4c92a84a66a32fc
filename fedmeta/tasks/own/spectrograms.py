"""The format of spectrograms as options of a task family."""

from pydantic import Field

from fedmeta.options import Options
from fedmeta.tasks.own.sound_file import MelFormat


class SpectrogramOptions(Options):
    """How sounds become spectrograms.

    Attributes:
        rate: Samples per second that sounds are resampled to.
        seconds: Length of the part of a sound that is used: its loudest one.
        mels: Frequency bands.
    """

    rate: int = Field(default=16_000, ge=4_000, le=48_000)
    seconds: float = Field(default=1.0, ge=0.08, le=30.0)
    mels: int = Field(default=32, ge=8, le=128)

    @property
    def form(self) -> MelFormat:
        """The format of spectrograms."""
        return MelFormat(self.rate, self.seconds, self.mels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, bands and frames: a spectrogram is an image."""
        return 1, self.mels, self.form.frames
