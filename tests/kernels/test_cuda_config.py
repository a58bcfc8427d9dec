"""Configurations, tuned tables and sources of the CUDA kernels: everything that needs no GPU."""

import dataclasses
import json
import math
import re

import pytest
import torch

from kernels.cuda_impl import build, select
from kernels.cuda_impl.candidates import BUCKETS, bucket_of, candidates, group_tile_choices
from kernels.cuda_impl.config import (
    BLOCK_SHARED_BYTES,
    SM_SHARED_BYTES,
    NarrowConfig,
    Weight,
    WideConfig,
    describe,
    fits,
    shared_bytes_for,
)
from kernels.cuda_impl.layout import Codes
from kernels.cuda_impl.linear import codes_for, decoder_of, describe_linear
from kernels.cuda_impl.wgmma import wgmma_source
from kernels.formats import FORMATS, get_format
from kernels.triton_impl.gemv_config import GemvConfig
from kernels.tuning import tune
from reasoning.model_table import MODELS, get_model_spec

SHIPPED = "NVIDIA H200"
TEMPLATE_PARAMETERS = {"PENDING"}
SHAPES = [(28672, 4096), (4096, 14336), (1024, 3072), (37, 96), (151936, 8192)]


def weight_of(name, tiles=2, group_size=64, dtype=torch.bfloat16, is_null=False):
    codes = codes_for(get_format(name), dtype)
    return Weight(get_format(name), codes, tiles, 0 if codes is Codes.BYTES else group_size, dtype, is_null)


def test_buckets_cover_every_m():
    assert [bucket_of(m) for m in (1, 2, 8, 9, 16, 17, 64, 65, 97, 129, 200, 256, 257, 5000)] == [
        1, 8, 8, 16, 16, 32, 64, 96, 128, 160, 224, 256, 256, 256,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["nf4", "fp4", "int8", "fp8"])
def test_shipped_table_fits_the_machine_and_has_every_bucket(name, cache):
    decoder = decoder_of(get_format(name), torch.bfloat16)
    entries = {key: tuned for key, tuned in select.load_table(SHIPPED).items() if key[0] == decoder}
    shapes = {shape for key in MODELS for shape in get_model_spec(key).linear_shapes().values()}
    assert {(decoder, n, k) for n, k in shapes if min(n, k) >= 512} <= set(entries)
    for key, tuned in entries.items():
        assert set(tuned.configs) == set(BUCKETS), key
        for m, config in tuned.configs.items():
            if config.kind == "gemv":
                assert m == 1 and config.block_k == 512 * config.warps, (key, config)
                continue
            weight = weight_of(name, tuned.group_tiles)
            assert fits(config, weight), (key, m, config)
            assert config.batch >= min(m, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"int4"}))
def test_every_weight_finds_a_configuration_that_fits(name, group_size, dtype, cache):
    for n, k in SHAPES:
        tuned = select.tuned_for(SHIPPED, decoder_of(get_format(name), dtype), n, k)
        for m in (1, 5, 16, 33, 64, 100, 256, 512):
            if tuned.config(m).kind == "gemv":
                assert m == 1 and name in ("int8", "fp8")
                continue
            for is_null in (False, True):
                weight = weight_of(name, tuned.group_tiles, group_size, dtype, is_null)
                assert fits(tuned.config(m), weight), (n, k, m, tuned.config(m))


@pytest.mark.parametrize(
    ("batch", "m", "rows"),
    [
        (256, 256, 256), (256, 129, 160), (256, 160, 160), (256, 161, 192), (256, 320, 160), (256, 512, 256),
        (128, 128, 128), (128, 65, 96), (128, 160, 96), (128, 256, 128), (64, 160, 64), (16, 9, 16),
    ],
)  # fmt: skip
def test_blocks_hold_no_more_empty_rows_than_rounding_takes(batch, m, rows):
    config = WideConfig(batch, 4, 2, 1, cluster_k=2)
    found = config.for_rows(m)
    assert found == dataclasses.replace(config, batch=rows)
    assert math.ceil(m / rows) == math.ceil(m / batch) and rows % 8 == 0


def test_a_tuned_shape_gives_rows_between_buckets_blocks_of_their_own():
    tuned = select.Tuned(1, {64: NarrowConfig(1, 2, 1, 8), 256: WideConfig(256, 4, 2, 1)})
    assert tuned.config(160) == WideConfig(160, 4, 2, 1) and tuned.config(256).batch == 256
    assert tuned.config(8) == NarrowConfig(1, 2, 1, 8)


def test_a_table_may_hold_other_numbers_of_rows_than_the_buckets():
    few, some, many = NarrowConfig(1, 2, 1, 8), WideConfig(160, 4, 2, 1), WideConfig(128, 4, 1, 1)
    tuned = select.Tuned(1, {8: few, 160: some, 256: many})
    assert tuned.config(1) == tuned.config(8) == few
    assert tuned.config(129) == some.for_rows(129) and tuned.config(160) == some
    assert tuned.config(161) == many.for_rows(161) and tuned.config(1000) == many.for_rows(1000)


def test_an_unknown_shape_takes_the_nearest_one(cache):
    table = select.load_table(SHIPPED)
    assert select.tuned_for(SHIPPED, "pairs", 28672, 4096) == table["pairs", 28672, 4096]
    assert select.tuned_for(SHIPPED, "pairs", 28600, 4100) == table["pairs", 28672, 4096]
    assert select.tuned_for("NVIDIA H100 80GB HBM3", "fp8", 1000, 3000) == table["fp8", 1024, 3072]
    with pytest.raises(ValueError, match="'fp3'"):
        select.tuned_for(SHIPPED, "fp3", 64, 64)


def test_the_users_table_wins_and_another_version_is_not_read(cache):
    configs = {m: NarrowConfig(1, 2, 1, 8) for m in BUCKETS}
    mine = select.Tuned(3, configs | {1: GemvConfig(4, 1024, 2, is_ahead=True)})
    path = select.store(SHIPPED, {("pairs", 28672, 4096): mine})
    assert path.parent == cache
    assert select.tuned_for(SHIPPED, "pairs", 28672, 4096) == mine
    more = select.Tuned(4, {m: WideConfig(64, 4, 1, 2, cluster_k=2) for m in BUCKETS})
    select.store(SHIPPED, {("fp8", 64, 64): more})
    assert select.tuned_for(SHIPPED, "pairs", 28672, 4096) == mine
    assert select.tuned_for(SHIPPED, "fp8", 64, 64) == more
    data = json.loads(path.read_text())
    data["version"] += 1
    path.write_text(json.dumps(data))
    select.load_table.cache_clear()
    assert select.tuned_for(SHIPPED, "pairs", 28672, 4096) != mine
    assert [p.name for p in cache.iterdir()] == [path.name]


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("name", ["nf4", "fp8"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_candidates_fit_and_cover_the_bucket(n, k, name, bucket):
    for tiles in group_tile_choices(n, 132):
        assert 1 <= tiles <= 8
        weight = weight_of(name, tiles)
        found = candidates(weight, n, k, bucket, 132)
        gemv = [config for config in found if config.kind == "gemv"]
        assert bool(gemv) == (bucket == 1 and name == "fp8" and k % 16 == 0)
        found = [config for config in found if config not in gemv]
        assert found, (n, k, bucket)
        for config in found:
            assert fits(config, weight)
            blocks, batches = config.grid(math.ceil(n / (16 * tiles)), tiles, bucket)
            assert batches * config.batch >= bucket
            rows = 16 * tiles * config.warps_n if config.kind == "narrow" else 64 * config.warpgroups_n
            assert blocks // config.cluster_k * rows >= n


def test_shared_memory_is_laid_out_around_the_table():
    weight = weight_of("nf4", 7)
    config = NarrowConfig(column_tiles=1, stages=2, warps_n=2, warps_k=8)
    ring = 2 * (1024 + 3840)
    before = (0x10000 - 2048) // ring
    assert config.before_table(weight) == before
    assert config.shared_bytes(weight) == 0x20000 - 1024 + (16 - before) * ring <= BLOCK_SHARED_BYTES
    assert config.shared_bytes(weight_of("nf4", 7, is_null=True)) == config.shared_bytes(weight)
    assert config.shared_bytes(weight_of("fp4", 7)) == 1024 + 16 * ring
    assert fits(config, weight) and not fits(NarrowConfig(1, 4, 2, 8), weight)


@pytest.mark.parametrize("config", [NarrowConfig(1, 2, 1, 8), WideConfig(64, 4, 1, 2)])
@pytest.mark.parametrize("name", ["nf4", "fp4", "int8", "fp8"])
def test_sources_define_every_macro_that_they_name(name, config):
    weight = weight_of(name)
    text = build.source(config, weight)
    defined = set(re.findall(r"#define (\w+)", text))
    code = re.sub(r'"[^"\n]*"', "", re.sub(r"//.*", "", text))
    used = set(re.findall(r"\b[A-Z][A-Z0-9_]{3,}\b", code))
    assert used - defined - TEMPLATE_PARAMETERS == ({"LEVEL_WORDS"} if name != "nf4" else set())
    assert f"#define FORMAT FORMAT_{ {'nf4': 'TABLE'}.get(name, name.upper()) }" in text
    assert ("LEVEL_WORDS" in defined) == (name == "nf4")


def test_level_words_hold_the_levels_in_pairs():
    words = weight_of("nf4").macros()["LEVEL_WORDS"].split(", ")
    bits = [int(word, 16) >> shift & 0xFFFF for word in words for shift in (0, 16)]
    levels = torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    expected = torch.tensor(get_format("nf4").code_book).bfloat16()
    assert torch.equal(levels, expected)


@pytest.mark.parametrize("batch", [0, 12, 264])
def test_wgmma_has_no_such_size(batch):
    with pytest.raises(ValueError, match=f"batch={batch}"):
        wgmma_source(batch, False)


def test_wgmma_names_every_register_once():
    text = wgmma_source(24, True)
    assert "m64n24k16.f32.f16.f16" in text
    assert text.count('"+f"(acc[') == 12 and "%16, 1, 1, 1, 0" in text


def test_unaligned_x_is_for_the_narrow_kernel():
    with pytest.raises(ValueError, match="x_unaligned=True"):
        WideConfig(64, 4, 1, 2).macros(weight_of("nf4"), x_unaligned=True)
    assert NarrowConfig(1, 2, 1, 8).macros(weight_of("nf4"), x_unaligned=True)["X_UNALIGNED"] == "1"


def test_description_names_kernel_and_configuration(monkeypatch, cache):
    from kernel_reference import random_weight

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: SHIPPED)
    w = random_weight(64, 128, "nf4")
    assert describe_linear(w, 1, torch.bfloat16).startswith("narrow column_tiles=1 ")
    assert "group_tiles=" in describe_linear(w, 64, None)
    assert describe_linear(w, 513, None) == "decode once, then torch's matmul"
    assert describe_linear(w, None, None) == ""
    assert describe(WideConfig(64, 4, 1, 2)).startswith("wide batch=64 stages=4 warpgroups_n=1")


def test_tuning_refuses_a_cpu_and_kernels_without_choices():
    with pytest.raises(ValueError, match="the device is cpu"):
        tune(["fused_nf4"], [(64, 64)], [1], device="cpu")


@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_shared_memory_can_hold_a_number_of_blocks_apart(blocks):
    asked = shared_bytes_for(blocks)
    assert asked <= BLOCK_SHARED_BYTES
    assert blocks * (asked + 1024) <= SM_SHARED_BYTES < (blocks + 1) * (asked + 1024)
