"""What a service accepts, and how long it takes over it."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from promptvit.data.images import MAX_PIXELS


class ServiceSettings(BaseModel):
    """Limits of one service.

    Attributes:
        max_batch: images of one batch; 1 answers each image alone.
        max_latency_ms: milliseconds that an image waits for others to share its batch, at most; 0 takes what is there.
        max_queue: images that may wait for a batch; beyond it requests are refused with 503.
        max_requests: requests whose images are being received or decoded at once; beyond it 503.
        max_images: images of one request.
        max_body: bytes of one request.
        max_pixels: pixels of one image.
        timeout: seconds to receive a request, and again to answer it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch: int = Field(default=16, ge=1)
    max_latency_ms: float = Field(default=5.0, ge=0, le=60_000)
    max_queue: int = Field(default=256, ge=1)
    max_requests: int = Field(default=64, ge=1)
    max_images: int = Field(default=32, ge=1)
    max_body: int = Field(default=20 * 2**20, ge=1)
    max_pixels: int = Field(default=40_000_000, ge=1, le=MAX_PIXELS)
    timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _whole_requests_fit(self) -> "ServiceSettings":
        if self.max_images > self.max_queue:
            raise ValueError(f"max_queue: {self.max_queue} is less than max_images {self.max_images}: such a request would never fit")
        return self
