"""A request that hangs is asked once more, and the job does not wait for it."""

from __future__ import annotations

import itertools
import time

import ioaccel
from ioaccel.testing.countproxy import CountingProxy, Fault

OBJECTS = 1500  # many more than the governor's samples
SLOW_SECONDS = 8.0


def test_a_slow_request_does_not_hold_up_the_batch(s3, bucket, tmp_path):
    data = {f"o/{n:04d}": n.to_bytes(4, "big") * 250 for n in range(OBJECTS)}
    s3.put_many(bucket, data.items())
    gets = itertools.count()

    def hook(request):
        if request.method == "GET" and next(gets) == 1200:
            return Fault(delay=SLOW_SECONDS)
        return None

    with CountingProxy(s3.endpoint, hook) as proxy:
        options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
        with ioaccel.connect(tmp_path / "cache", "50MB", options) as cache:
            begun = time.monotonic()
            batch = cache.read_many([f"s3://{bucket}/{key}" for key in data])
            elapsed = time.monotonic() - begun
            status = cache.status()
    assert [bytes(item) for item in batch] == list(data.values())
    assert status["store_hedged"] >= 1
    assert status["store_hedged"] <= 0.005 * status["store_requests"] + 1
    assert elapsed < SLOW_SECONDS, f"the batch waited {elapsed:.1f} s for the slow request"
