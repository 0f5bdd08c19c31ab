import torch

from autoreg_trainers.acceleration import avoid_planning


def test_attention_that_plans_for_each_shape_is_avoided():
    backend = torch.backends.cuda
    before = backend.cudnn_sdp_enabled()
    try:
        for device, expected in (("cpu", True), ("cuda", False)):
            backend.enable_cudnn_sdp(True)
            avoid_planning(torch.device(device))
            assert backend.cudnn_sdp_enabled() == expected
    finally:
        backend.enable_cudnn_sdp(before)
