"""Runs `lerobot-train` with this process's flags, then writes what rank-by-rank comparison needs.

Started by `torchrun`; REPORT_DIR names the folder for `rank_<n>.safetensors` (the LAM's codebook), `rank_<n>.json`
(the losses of each step) and `draws_<n>.json` (the samples of each step, by their number in the dataset).
"""

import json
import os
from pathlib import Path

from lerobot.scripts import lerobot_train
from safetensors.torch import save_file

kept = {}
update_policy = lerobot_train.update_policy


def keep(tracker, policy, batch, *args, **kwargs):
    result = update_policy(tracker, policy, batch, *args, **kwargs)
    kept["policy"] = policy
    kept.setdefault("draws", []).append(batch["index"].tolist())
    kept.setdefault("losses", []).append(result[1])
    return result


lerobot_train.update_policy = keep
lerobot_train.main()
folder, rank = Path(os.environ["REPORT_DIR"]), os.environ["RANK"]
state = {k: v for k, v in kept["policy"].state_dict().items() if "quantizer" in k and v.numel()}
save_file({k: v.contiguous() for k, v in state.items()}, folder / f"rank_{rank}.safetensors")
(folder / f"rank_{rank}.json").write_text(json.dumps(kept["losses"]))
(folder / f"draws_{rank}.json").write_text(json.dumps(kept["draws"]))
