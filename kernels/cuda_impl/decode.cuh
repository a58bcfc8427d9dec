// Decoding of packed words into the operands of 16-bit matrix instructions, shared by narrow.cu and wide.cu.
//
// A unit is 16 rows of the weight by 64 columns, 512 (4-bit) or 1024 (8-bit) bytes, in the order in which mma.m16n8k16
// wants its left operand: lane 4g + t holds rows g and g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9 of each 16, in one or
// two words of 16 bytes. layout.py writes it and says which bit is which.
//
// Macros: FORMAT (one of the four below), X_FP16, NULL_DECODE, LEVEL_WORDS (4-bit only: the 16 levels in x's dtype as 8 comma-separated words), GROUP (4-bit only: 32, 64 or 128).
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define FORMAT_TABLE 0
#define FORMAT_FP4 1
#define FORMAT_INT8 2
#define FORMAT_FP8 3

#define IS_4BIT (FORMAT == FORMAT_TABLE || FORMAT == FORMAT_FP4)
#define HAS_TABLE (FORMAT == FORMAT_TABLE)
#define UNIT_K 64
#define UNIT_STEPS 4
#define UNIT_PARTS (IS_4BIT ? 1 : 2)
#define UNIT_BYTES (512 * UNIT_PARTS)
#define UNIT_SCALES (IS_4BIT ? (GROUP == 32 ? 2 : 1) : 0)
// bf16 levels of fp4 and fp8 are built without adding the exponent's bias: they come out 2^-126 and 2^-120 too small.
#define IS_SUBNORMAL (!X_FP16 && (FORMAT == FORMAT_FP4 || FORMAT == FORMAT_FP8))

// The table starts at a multiple of 64 KB of the shared window and gives each byte 256 bytes, of which 128 are used:
// one copy of the entry per bank. So a single prmt puts the byte above lane * 4 and has the address of a look-up.
// In a cluster the top byte of shared addresses is the block's rank.
#define TABLE_START 0x10000u
#define TABLE_END 0x20000u
#define SHARED_START 1024u

__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return (u32)__cvta_generic_to_shared(pointer);
}

// Where the block's shared memory begins, without the offset that the host laid out the memory for.
__device__ __forceinline__ u32 shared_window(const void* shared) {
  const u32 base = shared_address(shared);
  if ((base & 0xffffffu) != SHARED_START) __trap();
  return base & 0xff000000u;
}

__device__ __forceinline__ u32 prmt(u32 a, u32 b, u32 selector) {
  u32 result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
}

// (word & mask) | base in one instruction; written in C the compiler makes two of it.
__device__ __forceinline__ u32 and_or(u32 word, u32 mask, u32 base) {
  u32 result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "r"(mask), "r"(base));
  return result;
}

__device__ __forceinline__ u32 multiply2(u32 a, u32 b) {
  u32 result;
#if X_FP16
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
#else
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
#endif
  return result;
}

__device__ __forceinline__ u32 subtract2(u32 a, u32 b) {
  u32 result;
#if X_FP16
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
#else
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
#endif
  return result;
}

#if HAS_TABLE
__constant__ u32 level_words[8] = {LEVEL_WORDS};

// Fill the table at `table`; needs a barrier after it.
__device__ __forceinline__ void fill_table(u32 table, int threads) {
  for (int i = threadIdx.x; i < 512; i += threads) {
    const int byte = i >> 1;
    const u32 low = level_words[(byte >> 1) & 7], high = level_words[byte >> 5];
    const u32 pair = prmt(low, high, ((byte & 1) ? 0x32u : 0x10u) | ((byte & 16) ? 0x7600u : 0x5400u));
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const u32 chunk = ((i & 1) * 4 + j + byte) & 7;  // neighbouring lanes write other banks
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(table + byte * 256 + chunk * 16), "r"(pair));
    }
  }
}

__device__ __forceinline__ u32 look_up(u32 word, int index, u32 lane_address) {
  u32 pair;
  asm("ld.shared.b32 %0, [%1];" : "=r"(pair) : "r"(prmt(word, lane_address, 0x7604u | (index << 4))));
  return pair;
}
#endif

// Eight codes of 4 bits: a[j], j = 0..3, of one matrix instruction.
__device__ __forceinline__ void decode_nibbles(u32 word, u32 lane_address, u32* a) {
#if NULL_DECODE
  a[0] = word & 0x3f7f3f7fu;
  a[1] = a[0], a[2] = a[0], a[3] = a[0];
#else
#if FORMAT == FORMAT_FP4
  a[0] = word & 0x81c081c0u;
  a[1] = (word << 3) & 0x81c081c0u;
  a[2] = (word << 6) & 0x81c081c0u;
  a[3] = and_or(word >> 4, 0x00c000c0u, and_or(word >> 5, 0x01000100u, (word << 1) & 0x80008000u));
#elif HAS_TABLE
#pragma unroll
  for (int j = 0; j < 4; j++) a[j] = look_up(word, j, lane_address);
#endif
#endif
}

// Four codes of 8 bits: bytes 0 and 2 are a[0], bytes 1 and 3 are a[1].
__device__ __forceinline__ void decode_bytes(u32 word, u32* a) {
#if NULL_DECODE
  a[0] = word & 0x3f7f3f7fu;
  a[1] = a[0];
#elif FORMAT == FORMAT_INT8 && X_FP16
  const u32 biased = word ^ 0x80808080u;
  a[0] = subtract2(prmt(biased, 0x64646464u, 0x4240u), 0x64806480u);  // (1024 + 128 + q) - 1152
  a[1] = subtract2(prmt(biased, 0x64646464u, 0x4341u), 0x64806480u);
#elif FORMAT == FORMAT_INT8
  const u32 upper = word >> 8;  // q = (128 + low seven bits) - (256 where the sign is set, else 128)
  a[0] = subtract2(and_or(word, 0x007f007fu, 0x43004300u), and_or(word, 0x00800080u, 0x43004300u));
  a[1] = subtract2(and_or(upper, 0x007f007fu, 0x43004300u), and_or(upper, 0x00800080u, 0x43004300u));
#elif FORMAT == FORMAT_FP8 && X_FP16
  a[0] = multiply2(and_or(word << 8, 0x80008000u, (word & 0x007f007fu) << 7), 0x5c005c00u);  // times 2^8
  a[1] = multiply2(and_or(word, 0x80008000u, (word & 0x7f007f00u) >> 1), 0x5c005c00u);
#elif FORMAT == FORMAT_FP8
  a[0] = and_or(word << 8, 0x80008000u, (word & 0x007f007fu) << 4);
  a[1] = and_or(word, 0x80008000u, (word & 0x7f007f00u) >> 4);
#endif
}

// Operands of all 4 matrix instructions of a unit, a[4 * step + register]; address is the unit's in shared memory.
__device__ __forceinline__ void decode_unit(u32 address, u32 lane_address, u32* a) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int part = 0; part < UNIT_PARTS; part++) {
    u32 words[4];
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address + part * 512 + lane * 16));
#pragma unroll
    for (int i = 0; i < 4; i++) {
#if IS_4BIT
      decode_nibbles(words[i], lane_address, a + 4 * i);
#else
      decode_bytes(words[i], a + 8 * part + 2 * i);
#endif
    }
  }
}

__device__ __forceinline__ float half_bits_to_float(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ __forceinline__ u16 to_x_dtype(float value) {
  u16 bits;
#if X_FP16
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#endif
  return bits;
}

__device__ __forceinline__ void copy_async16(u32 destination, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(bytes) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void init_barrier(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void expect_bytes(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void wait_for_barrier(u32 barrier, u32 parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "again%=:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t@!done bra again%=;\n\t}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void fence_barriers() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Programmatic dependent launch: the next kernel of the stream may start now; it waits before it reads what this one
// writes. Weights are older than any kernel in flight (the host waits after it has rearranged them), so their copies
// start before the wait. Both do nothing where the launch did not ask for it.
__device__ __forceinline__ void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// A float of block `rank` of the cluster, at the address that it has in this block.
__device__ __forceinline__ float load_from_block(const float* pointer, int rank) {
  u32 remote;
  float value;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(pointer)), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(remote) : "memory");
  return value;
}

// Four of them, 16-byte aligned; this block's own where rank is negative.
__device__ __forceinline__ float4 load4_from_block(const float* pointer, int rank) {
  if (rank < 0) return *(const float4*)pointer;
  u32 remote;
  float4 v;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(pointer)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(remote)
               : "memory");
  return v;
}
