"""What `mec track` takes, the home of its flags, defaults and words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from mec.errors import BadInput
from mec.runtime.flags import Device, File, OptionalReals, reals
from mec.runtime.ranges import FROM_1, Range


@dataclass(frozen=True, kw_only=True)
class Following:
    """Follow objects through a video of your own by an encoder's features.

    From a box or a mask of the first frame, or by linking given detections."""

    out: Annotated[str | Path, arg(metavar="FILE", constructor=Path)]
    """The .txt to write, a row an object and a frame (from 1): frame,id,x,y,w,h,1,-1,-1,-1 in px from the top left
    corner; with --mask: frame id 1 height width run-lengths, as MOTS has them."""
    box: Annotated[OptionalReals, arg(metavar="X,Y,W,H")] = None
    """Follow one object: its box in the first frame, px from the top left corner."""
    mask: File = None
    """Follow the objects of a mask of the first frame: an image of ids (0 is background); one of 0 and 255 is one."""
    detections: File = None
    """Link given boxes to tracks: rows frame,id,x,y,w,h,score or frame,x,y,w,h,score; or what `mec detect` wrote of the
    folder of frames."""
    video: File = None
    """Also draw the tracks over the frames: an .mp4 or .gif."""
    head: Literal["dcf", "xcorr"] = "dcf"
    """For --box. dcf: a correlation filter that is updated. xcorr: cross-correlation with the first frame."""
    stage: Literal["3", "4"] = "3"
    """The last stage of the ResNet that is kept."""
    motion: bool = False
    """For --detections: add the Kalman filter's Mahalanobis distance to the matching cost."""
    least_score: Annotated[float, Range(float, 0, 1)] = 0.5
    """For --detections: those above it are used."""
    batch_size: Annotated[int, FROM_1] = 4
    """Frames or crops that go through the encoder together."""
    device: Device = "auto"
    """Where the encoder runs."""

    def check(self) -> None:
        """Raises BadInput: not one of box, mask and detections; or a name of an output that ends otherwise."""
        given = [name for name in ("box", "mask", "detections") if getattr(self, name) is not None]
        if len(given) != 1:
            came = " and ".join(f"--{name}" for name in given) or "none"
            raise BadInput(f"what to follow? One of --box, --mask and --detections; {came} came.")
        if Path(self.out).suffix != ".txt":
            raise BadInput(f"--out is {self.out}: its name ends with .txt.")
        if self.video is not None and Path(self.video).suffix not in (".mp4", ".gif"):
            raise BadInput(f"--video is {self.video}: its name ends with .mp4 or .gif.")
        if self.box is not None and (len(box := reals(self.box, "--box")) != 4 or min(box[2:]) <= 0):
            raise BadInput(f"--box is {self.box}: x,y,w,h in px, w and h above 0.")
