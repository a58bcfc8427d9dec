// y[m, n] = x[m, k] @ decoded(weight)[n, k]^T for few rows of x (at most 8 * COLUMN_TILES per block of the grid's y).
//
// The decoded weight is the left operand of mma.m16n8k16 and x the right one, so up to 8 rows of x cost what one costs.
// A warp owns TILES tiles of 16 rows and, with WARPS_K warps and the CLUSTER_K blocks of a cluster, every so-many-th slab of
// 64 columns. It has its own ring of STAGES stages in shared memory: one bulk copy brings a slab of its tiles, scales
// included, and cp.async its part of x; no warp waits for another until the partial sums meet in shared memory, across the
// cluster too, in a fixed order. Group scales multiply the fp32
// sum of a group, not the weights. Traffic: weight and scales once per block of rows of x, y once.
//
// Macros besides those of decode.cuh: COLUMN_TILES, TILES, STAGES, WARPS_N, WARPS_K, CLUSTER_K, BLOCKS_PER_SM, X_UNALIGNED (rows of x
// do not start at multiples of 16 bytes), RESULT_SCALE.
#define WARPS (WARPS_N * WARPS_K)
#define THREADS (32 * WARPS)
#define SPLITS (WARPS_K * CLUSTER_K)
#define ROWS (16 * TILES * WARPS_N)
#define CODE_BYTES (TILES * UNIT_BYTES)
#define BLOCK_BYTES (CODE_BYTES + TILES * 32 * UNIT_SCALES)
#define X_BYTES (COLUMN_TILES * 1024)
#define STAGE_BYTES (X_BYTES + (BLOCK_BYTES + 127) / 128 * 128)
#define RING_BYTES (STAGES * STAGE_BYTES)
#define PADDED_COLUMN 20  // floats per column of a 16-row tile of partial sums: no two lanes of a store share a bank
#define PARTIAL (8 * PADDED_COLUMN)

#if X_FP16
#define MMA_TYPES "f16.f16"
#else
#define MMA_TYPES "bf16.bf16"
#endif

__device__ __forceinline__ void mma(float* c, const u32* a, const u32* b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPES
      ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void copy_weight(u32 destination, const void* source, u32 barrier) {
  expect_bytes(barrier, BLOCK_BYTES);
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(destination),
               "l"(source), "n"(BLOCK_BYTES), "r"(barrier)
               : "memory");
}

// Copies slab `slab` of x: row r's 16-byte pieces lie at r * 128, exchanged by r so that ldmatrix meets no bank twice.
__device__ __forceinline__ void copy_x(u32 destination, const u16* x, long long stride, int m, int k, int slab) {
  const int lane = threadIdx.x & 31;
#if X_UNALIGNED
  for (int i = lane; i < m * 64; i += 32) {
    const int row = i >> 6, column = slab * UNIT_K + (i & 63);
    const u16 value = column < k ? x[row * stride + column] : (u16)0;
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(destination + row * 128 + ((((i & 63) >> 3) ^ (row & 7)) << 4) + (i & 7) * 2),
                 "h"(value)
                 : "memory");
  }
#else
#pragma unroll
  for (int i = 0; i < 2 * COLUMN_TILES; i++) {
    const int row = i * 4 + (lane >> 3), piece = lane & 7, column = slab * UNIT_K + piece * 8;
    if (row < m) {
      const int bytes = min(max(k - column, 0), 8) * 2;
      copy_async16(destination + row * 128 + ((piece ^ (row & 7)) << 4), x + row * stride + (bytes ? column : 0), bytes);
    }
  }
#endif
}

// Right operands of a slab: b[2 * step + half].
__device__ __forceinline__ void load_x(u32 stage, int tile, u32* b) {
  const int lane = threadIdx.x & 31;
  const u32 row = stage + tile * 1024 + (lane & 7) * 128;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 address = row + (((4 * i + (lane >> 3)) ^ (lane & 7)) << 4);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[4 * i]), "=r"(b[4 * i + 1]), "=r"(b[4 * i + 2]), "=r"(b[4 * i + 3])
                 : "r"(address));
  }
#if IS_SUBNORMAL && !NULL_DECODE
#pragma unroll
  for (int i = 0; i < 8; i++) b[i] = multiply2(b[i], 0x6f806f80u);  // times 2^96
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
#if CLUSTER_K > 1
__cluster_dims__(CLUSTER_K, 1, 1)
#endif
narrow(const unsigned char* __restrict__ weight, const float* __restrict__ row_scales, const u16* __restrict__ x,
       u16* __restrict__ y, int m, int n, int k, long long x_stride, int groups, int slabs, int rings_before_table) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int rank = blockIdx.x % CLUSTER_K, first_slab = rank * WARPS_K + warp % WARPS_K;
  const int group = blockIdx.x / CLUSTER_K * WARPS_N + warp / WARPS_K;
  const int first_m = blockIdx.y * (8 * COLUMN_TILES);
  x += first_m * x_stride;
  y += (long long)first_m * n;
  m = min(m - first_m, 8 * COLUMN_TILES);

  const u32 window = shared_window(shared), base = window + SHARED_START;
  const u32 barrier = base + warp * (STAGES * 8);
#if HAS_TABLE
  const u32 ring = warp < rings_before_table ? base + 1024 + warp * RING_BYTES
                                             : window + TABLE_END + (warp - rings_before_table) * RING_BYTES;
#else
  const u32 ring = base + 1024 + warp * RING_BYTES;
#endif
  const int count = group < groups && first_slab < slabs ? (slabs - first_slab + SPLITS - 1) / SPLITS : 0;
  const unsigned char* source = weight + ((size_t)group * slabs + first_slab) * BLOCK_BYTES;

  let_next_kernel_start();
  if (lane < STAGES) init_barrier(barrier + lane * 8, 1);
  fence_barriers();
  __syncthreads();  // a warp's own barriers need less, but then racecheck does not see that they order its copies
  if (lane == 0)
#pragma unroll
    for (int i = 0; i < STAGES; i++)
      if (i < count) copy_weight(ring + i * STAGE_BYTES + X_BYTES, source + (size_t)i * SPLITS * BLOCK_BYTES, barrier + i * 8);
  if (m < 8 * COLUMN_TILES)  // rows that x does not have
    for (int i = 0; i < STAGES; i++)
      for (int j = m * 8 + lane; j < COLUMN_TILES * 64; j += 32)
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(ring + i * STAGE_BYTES + j * 16), "r"(0) : "memory");
#if HAS_TABLE && !NULL_DECODE
  fill_table(window + TABLE_START, THREADS);
#endif
  wait_for_previous_kernel();
#pragma unroll
  for (int i = 0; i < STAGES; i++) {
    if (i < count) copy_x(ring + i * STAGE_BYTES, x, x_stride, m, k, first_slab + i * SPLITS);
    commit_copies();
  }
#if HAS_TABLE
  __syncthreads();
#endif
  const u32 lane_address = window | TABLE_START | (lane * 4);

  float acc[TILES][COLUMN_TILES][4] = {};
  u32 stage = 0, parity = 0;
  for (int i = 0; i < count; i++) {
    const u32 here = ring + stage * STAGE_BYTES;
    wait_for_copies<STAGES - 1>();
    __syncwarp();
    u32 b[COLUMN_TILES][8];
#pragma unroll
    for (int tile = 0; tile < COLUMN_TILES; tile++) load_x(here, tile, b[tile]);
    wait_for_barrier(barrier + stage * 8, parity);
#pragma unroll
    for (int r = 0; r < TILES; r++) {
      u32 a[16];
      decode_unit(here + X_BYTES + r * UNIT_BYTES, lane_address, a);
#if IS_4BIT
#pragma unroll
      for (int j = 0; j < UNIT_SCALES; j++) {
        u32 pair;
        asm volatile("ld.shared.b32 %0, [%1];"
                     : "=r"(pair)
                     : "r"(here + X_BYTES + CODE_BYTES + (r * UNIT_SCALES + j) * 32 + g * 4));
        const float low = half_bits_to_float((u16)pair), high = half_bits_to_float((u16)(pair >> 16));
#pragma unroll
        for (int tile = 0; tile < COLUMN_TILES; tile++) {
          float sum[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
          for (int step = j * 4 / UNIT_SCALES; step < (j + 1) * 4 / UNIT_SCALES; step++)
            mma(sum, a + 4 * step, b[tile] + 2 * step);
          acc[r][tile][0] += sum[0] * low;
          acc[r][tile][1] += sum[1] * low;
          acc[r][tile][2] += sum[2] * high;
          acc[r][tile][3] += sum[3] * high;
        }
      }
#else
#pragma unroll
      for (int step = 0; step < UNIT_STEPS; step++)
#pragma unroll
        for (int tile = 0; tile < COLUMN_TILES; tile++) mma(acc[r][tile], a + 4 * step, b[tile] + 2 * step);
#endif
    }
    __syncwarp();
    if (i + STAGES < count) {
      if (lane == 0)
        copy_weight(here + X_BYTES, source + (size_t)(i + STAGES) * SPLITS * BLOCK_BYTES, barrier + stage * 8);
      copy_x(here, x, x_stride, m, k, first_slab + (i + STAGES) * SPLITS);
    }
    commit_copies();
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }

  __syncthreads();  // partial sums reuse the memory of the rings and of the table
  float* partial = (float*)(shared + 1024);
#pragma unroll
  for (int r = 0; r < TILES; r++)
#pragma unroll
    for (int tile = 0; tile < COLUMN_TILES; tile++) {
      float* sums = partial + ((r * COLUMN_TILES + tile) * WARPS + warp) * PARTIAL + g;
      const int column = 2 * t;
      if (tile * 8 + column < m) {
        sums[column * PADDED_COLUMN] = acc[r][tile][0];
        sums[column * PADDED_COLUMN + 8] = acc[r][tile][2];
      }
      if (tile * 8 + column + 1 < m) {
        sums[(column + 1) * PADDED_COLUMN] = acc[r][tile][1];
        sums[(column + 1) * PADDED_COLUMN + 8] = acc[r][tile][3];
      }
    }
  __syncthreads();
  const int first_row = blockIdx.x / CLUSTER_K * ROWS;
  auto store = [&](int i, float sum) {
    const int out = first_row + i % ROWS;
    if (out < n) y[(long long)(i / ROWS) * n + out] = to_x_dtype(sum * (__ldg(row_scales + out) * RESULT_SCALE));
  };
  float* totals = partial + TILES * COLUMN_TILES * WARPS * PARTIAL;
  for (int i = threadIdx.x; i < ROWS * m; i += THREADS) {
    const int column = i / ROWS, row = i % ROWS, tile = row >> 4;
    const float* sums = partial + (((tile % TILES) * COLUMN_TILES + (column >> 3)) * WARPS + (tile / TILES) * WARPS_K) * PARTIAL +
                        (column & 7) * PADDED_COLUMN + (row & 15);
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < WARPS_K; j++) sum += sums[j * PARTIAL];
    if (CLUSTER_K == 1)
      store(i, sum);
    else
      totals[i] = sum;
  }
#if CLUSTER_K > 1
  cluster_barrier();
  for (int i = rank * THREADS + threadIdx.x; i < ROWS * m; i += CLUSTER_K * THREADS) {
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < CLUSTER_K; j++) sum += load_from_block(totals + i, j);
    store(i, sum);
  }
  cluster_barrier();  // other blocks may still read this one's sums
#endif
}
