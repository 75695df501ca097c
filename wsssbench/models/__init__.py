"""Networks: backbones with named stages, the CAM network, decoders. No losses, no training."""

from wsssbench.models.affinity import AffinityNet, BoundaryNet
from wsssbench.models.backbones import BACKBONES, build
from wsssbench.models.base import STAGES, Backbone
from wsssbench.models.cam_network import CamNetwork, Output
from wsssbench.models.decoder import Decoder
from wsssbench.models.weights import imagenet_file, weights_hash

__all__ = [
    "BACKBONES",
    "STAGES",
    "AffinityNet",
    "Backbone",
    "BoundaryNet",
    "CamNetwork",
    "Decoder",
    "Output",
    "build",
    "imagenet_file",
    "weights_hash",
]
