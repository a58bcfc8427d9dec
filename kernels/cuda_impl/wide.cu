// y[m, n] = x[m, k] @ decoded(weight)[n, k]^T for more rows of x, BATCH of them per block of the grid's y.
//
// A warpgroup decodes 64 rows of the weight into the left operand registers of wgmma, group scale included, and x is the
// right operand in shared memory, in the 128-byte swizzle, brought by tensor copies. WARPGROUPS_N warpgroups share a slab of x; WARPGROUPS_K groups
// of them and the CLUSTER_K blocks of a cluster take every other slab of 64 columns. While the tensor cores multiply one
// slab the warps decode the next. Partial sums meet in shared memory, across the cluster too, in a fixed order.
// Traffic: weight, scales and y once per block of rows of x; x once per block of rows of the weight, from the L2.
//
// Macros besides those of decode.cuh: BATCH, WARPGROUPS_N, WARPGROUPS_K, CLUSTER_K, STAGES, TILES (of a block of the
// layout), BLOCKS_PER_SM, RESULT_SCALE.
#define WARPGROUPS (WARPGROUPS_N * WARPGROUPS_K)
#define WARPS (4 * WARPGROUPS)
#define THREADS (128 * WARPGROUPS)
#define SPLITS (WARPGROUPS_K * CLUSTER_K)
#define CODE_BYTES (TILES * UNIT_BYTES)
#define BLOCK_BYTES (CODE_BYTES + TILES * 32 * UNIT_SCALES)
#define X_BYTES (BATCH * 128)
#define WARP_BYTES (UNIT_BYTES + 32 * UNIT_SCALES)
#define STAGE_BYTES ((WARPGROUPS_K * X_BYTES + WARPS * WARP_BYTES + 1023) / 1024 * 1024)
#define ROWS (64 * WARPGROUPS_N)
#define PADDED_ROWS (ROWS + 4)  // floats per column of partial sums: no two lanes of a store share a bank
#define GROUP_WARPS (4 * WARPGROUPS_N)

struct alignas(64) TensorMap {
  u64 words[16];
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
#if CLUSTER_K > 1
__cluster_dims__(CLUSTER_K, 1, 1)
#endif
wide(const __grid_constant__ TensorMap x, const unsigned char* __restrict__ weight, const float* __restrict__ row_scales,
     u16* __restrict__ y, int m, int n, int tiles, int slabs, int stages_before_table) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const int lane = threadIdx.x & 31, warp = __shfl_sync(0xffffffffu, threadIdx.x >> 5, 0), g = lane >> 2;
  const int warpgroup_k = (warp >> 2) / WARPGROUPS_N, warpgroup_n = (warp >> 2) % WARPGROUPS_N;
  const int rank = blockIdx.x % CLUSTER_K, first_row = blockIdx.x / CLUSTER_K * ROWS, first_m = blockIdx.y * BATCH;

  const u32 window = shared_window(shared), base = window + SHARED_START;
  const u32 full = base + warpgroup_k * (STAGES * 16), empty = full + STAGES * 8;
  auto stage_address = [&](int stage) -> u32 {
#if HAS_TABLE
    return stage < stages_before_table ? base + 1024 + stage * STAGE_BYTES
                                       : window + TABLE_END + (stage - stages_before_table) * STAGE_BYTES;
#else
    return base + 1024 + stage * STAGE_BYTES;
#endif
  };
  const u32 x_offset = warpgroup_k * X_BYTES, warp_offset = WARPGROUPS_K * X_BYTES + warp * WARP_BYTES;
  const bool is_producer = warp % GROUP_WARPS == 0 && lane == 0;

  let_next_kernel_start();
  if (is_producer) {
    for (int i = 0; i < STAGES; i++) {
      init_barrier(full + i * 8, 1);
      init_barrier(empty + i * 8, GROUP_WARPS);
    }
    fence_barriers();
  }

  // Every warp copies the units of its own tile; past the last slab or tile a stage is filled with zeros.
  const int tile = first_row / 16 + warpgroup_n * 4 + (warp & 3), first_slab = rank * WARPGROUPS_K + warpgroup_k;
  const int slabs_of_tile = tile < tiles ? slabs : 0;
  const unsigned char* codes = weight + ((size_t)(tile / TILES) * slabs + first_slab) * BLOCK_BYTES + (tile % TILES) * UNIT_BYTES +
                               lane * 16;
  const int to_scales = CODE_BYTES + (tile % TILES) * (32 * UNIT_SCALES - UNIT_BYTES);
  int copied_slab = first_slab;
  auto copy_weight = [&](u32 stage) {
    const u32 destination = stage + warp_offset + lane * 16;
    const int bytes = copied_slab < slabs_of_tile ? 16 : 0;
    const unsigned char* source = bytes ? codes : weight;
#pragma unroll
    for (int part = 0; part < UNIT_PARTS; part++) copy_async16(destination + part * 512, source + part * 512, bytes);
    if (lane < 2 * UNIT_SCALES) copy_async16(destination + UNIT_BYTES, bytes ? source + to_scales : weight, bytes);
    commit_copies();
    codes += (size_t)SPLITS * BLOCK_BYTES;
    copied_slab += SPLITS;
  };
  auto copy_x = [&](int slab, int stage) {
    expect_bytes(full + stage * 8, X_BYTES);
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            stage_address(stage) + x_offset),
        "l"(&x), "r"(slab * UNIT_K), "r"(first_m), "r"(full + stage * 8)
        : "memory");
  };

#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) copy_weight(stage_address(i));
#if HAS_TABLE && !NULL_DECODE
  fill_table(window + TABLE_START, THREADS);
#endif
  __syncthreads();
  wait_for_previous_kernel();
  int x_slab = first_slab, x_stage = 0;
  const int last_slab = (slabs + 2 * SPLITS - 1) / (2 * SPLITS) * (2 * SPLITS);  // every group takes an even number of slabs
  if (is_producer)
    for (; x_stage < STAGES - 2; x_stage++, x_slab += SPLITS)
      if (x_slab < last_slab) copy_x(x_slab, x_stage);
  const u32 lane_address = window | TABLE_START | (lane * 4);

  float acc[BATCH / 2] = {};
  u32 even[16], odd[16];
  // Stages follow each other in a ring, across the table; their barriers likewise.
  const u32 first_stage = stage_address(0), last_stage = stage_address(STAGES - 1);
#if HAS_TABLE
  const u32 before_table = base + 1024 + stages_before_table * STAGE_BYTES;
#endif
  u32 stage = first_stage, stage_before = last_stage, barrier = full, barrier_before = full, used_barrier = full;
  u32 parity = 0, x_parity = 1;
  u64 descriptor;

  // Decodes the next slab, and starts the copies of later ones.
  auto decode = [&](u32* a) {
    const u32 here = stage;
    if (is_producer) {
      if (x_slab < last_slab) {
        wait_for_barrier(empty + x_stage * 8, x_parity);
        copy_x(x_slab, x_stage);
      }
      x_slab += SPLITS;
      if (++x_stage == STAGES) x_stage = 0, x_parity ^= 1;
    }
    wait_for_copies<STAGES - 2>();
    __syncwarp();
    decode_unit(here + warp_offset, lane_address, a);
#if !NULL_DECODE
#if IS_4BIT
#pragma unroll
    for (int j = 0; j < UNIT_SCALES; j++) {
      u32 pair;
      asm volatile("ld.shared.b32 %0, [%1];" : "=r"(pair) : "r"(here + warp_offset + UNIT_BYTES + j * 32 + g * 4));
      const float lift = IS_SUBNORMAL ? 0x1p126f : 1.f;
      const u32 low = to_x_dtype(half_bits_to_float((u16)pair) * lift) * 0x10001u;
      const u32 high = to_x_dtype(half_bits_to_float((u16)(pair >> 16)) * lift) * 0x10001u;
#pragma unroll
      for (int e = j * 16 / UNIT_SCALES; e < (j + 1) * 16 / UNIT_SCALES; e++) a[e] = multiply2(a[e], e & 1 ? high : low);
    }
#elif IS_SUBNORMAL
#pragma unroll
    for (int e = 0; e < 16; e++) a[e] = multiply2(a[e], 0x7b807b80u);  // times 2^120
#endif
#endif
    copy_weight(stage_before);
    stage_before = here;
    stage = here == last_stage ? first_stage : here + STAGE_BYTES;
#if HAS_TABLE
    if (stage == before_table) stage = window + TABLE_END;
#endif
    // Layout type 1 (128-byte swizzle), 1024 bytes from one 8-row group of x to the next, 16 columns per step.
    descriptor = ((u64)1 << 62) | ((u64)64 << 32) | ((u64)1 << 16) | (((here + x_offset) & 0x3ffffu) >> 4);
    wait_for_barrier(barrier, parity);
    used_barrier = barrier_before, barrier_before = barrier, barrier += 8;
    if (barrier == full + STAGES * 8) barrier = full, parity ^= 1;
  };
  auto multiply = [&](const u32* a) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int s = 0; s < 4; s++) wgmma(acc, a + 4 * s, descriptor + 2 * s);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  };
  auto finish = [&]() {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    if (lane == 0) arrive(used_barrier + STAGES * 8);  // empty
  };

  decode(even);
  for (int slab = 0; slab < last_slab - 2 * SPLITS; slab += 2 * SPLITS) {
    multiply(even);
    decode(odd);
    finish();
    multiply(odd);
    decode(even);
    finish();
  }
  multiply(even);
  decode(odd);
  finish();
  multiply(odd);
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  wait_for_copies<0>();
  __syncthreads();

  y += (long long)first_m * n;
  m = min(m - first_m, BATCH);
  // [WARPGROUPS_K][BATCH][PADDED_ROWS], over the stages and the table, not over the barriers: their last arrivals may be
  // on their way still.
  float* partial = (float*)(shared + 1024);
  {
    float* sums = partial + warpgroup_k * BATCH * PADDED_ROWS + warpgroup_n * 64 + (warp & 3) * 16 + g;
    const int t = lane & 3;
#pragma unroll
    for (int j = 0; j < BATCH / 8; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        sums[(8 * j + 2 * t + e) * PADDED_ROWS] = acc[4 * j + e];
        sums[(8 * j + 2 * t + e) * PADDED_ROWS + 8] = acc[4 * j + 2 + e];
      }
    }
  }
#if CLUSTER_K > 1
  cluster_barrier();
#else
  __syncthreads();
#endif
  // Block `rank` of the cluster finishes every CLUSTER_K-th column, 4 rows per thread.
  const bool is_aligned = n % 4 == 0 && ((u64)y & 7) == 0;
  for (int i = threadIdx.x; i < (m - rank + CLUSTER_K - 1) / CLUSTER_K * (ROWS / 4); i += THREADS) {
    const int column = i / (ROWS / 4) * CLUSTER_K + rank, row = i % (ROWS / 4) * 4, out = first_row + row;
    float sum[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int c = 0; c < CLUSTER_K; c++) {
#pragma unroll
      for (int j = 0; j < WARPGROUPS_K; j++) {
        const float4 part = load4_from_block(partial + (j * BATCH + column) * PADDED_ROWS + row, CLUSTER_K > 1 ? c : -1);
        sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
      }
    }
    u16* target = y + (long long)column * n + out;
    u16 bits[4];
#pragma unroll
    for (int e = 0; e < 4; e++)
      bits[e] = out + e < n ? to_x_dtype(sum[e] * (__ldg(row_scales + out + e) * RESULT_SCALE)) : (u16)0;
    if (is_aligned) {
      if (out < n)
        *(uint2*)target = make_uint2(bits[0] | ((u32)bits[1] << 16), bits[2] | ((u32)bits[3] << 16));
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (out + e < n) target[e] = bits[e];
    }
  }
#if CLUSTER_K > 1
  cluster_barrier();  // other blocks may still read this one's sums
#endif
}
