"""Two ranks on one node: one engine, and each object is fetched once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import DataSet
from support.processes import ROOT

from ioaccel.testing.countproxy import CountingProxy
from ioaccel.testing.seaweed import SeaweedS3

RANK = """
import json, sys
import torch, torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler
from support import torch_data as td
import ioaccel
from ioaccel.torch import accelerate

if __name__ == "__main__":
    urls, options, directory = json.loads(sys.argv[1])
    dist.init_process_group("gloo")
    with ioaccel.connect(directory, "50MB", options) as cache:
        dataset = td.Told(urls, options)
        sampler = DistributedSampler(dataset, seed=7)
        loader = accelerate(
            DataLoader(dataset, 4, sampler=sampler, num_workers=1, timeout=50, collate_fn=td.as_is),
            cache=cache,
        )
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
        seen = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            for batch in loader:
                seen += [(epoch, index, len(sample)) for index, sample in batch]
                model(torch.ones(len(batch), 4)).sum().backward()
        status = cache.status()
        dist.barrier()
        print(json.dumps([seen, status["engine_pid"], status["direct_bytes"]]))
    dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_two_ranks_share_one_engine(s3: SeaweedS3, bucket: str, tmp_path: Path) -> None:
    data = DataSet.fill(s3, bucket, [1000 * n for n in range(40)])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with CountingProxy(s3.endpoint) as proxy:
        options = s3.storage_options | {"endpoint_url": proxy.endpoint}
        told = json.dumps([data.urls, options, str(tmp_path)])
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        world = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, told],
                env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            out = [rank.communicate(timeout=120)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        assert [rank.returncode for rank in ranks] == [0, 0]
        requests = proxy.reset().requests
    seen, engines, direct = zip(*(json.loads(text.splitlines()[-1]) for text in out), strict=True)
    expected = [[epoch, index, 1000 * index] for epoch in range(3) for index in range(40)]
    assert sorted(seen[0] + seen[1]) == expected
    assert len(set(engines)) == 1
    assert direct == (0, 0)
    assert requests["GET"] == 40, requests
