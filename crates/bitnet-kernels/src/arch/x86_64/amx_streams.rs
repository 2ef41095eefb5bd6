//! The loop over streams of rows that products of few tokens share on the matrix unit (AMX int8).
//!
//! Weights are the first operand of a tile product, 64 columns of 16 rows as they are unpacked; activations, which are few and
//! are arranged once, the second: lines of four columns of all tokens. The 16 rows lie far apart, and each is followed by the
//! next one of its stream: the processor sees 16 streams coming, where 16 neighbouring rows come at two thirds of the speed.
//! All of it is one block of assembly, so that in every round one unit of columns is unpacked while the unit before is
//! multiplied, across the ends of rows, and sums stay in tiles to the end of a row. With a block for each unit, or for each
//! row, tiles wait for stores and processors for tiles, and little is gained.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::amx::{TILE_BYTES, TILE_ROWS};
use super::ternary_avx512vnni::transpose;

/// Streams of rows: rows of a tile.
pub(super) const STREAMS: usize = TILE_ROWS;
/// Tiles of sums that take turns: the next product may add to the same one only after 52 clocks.
pub(super) const TURNS: usize = 2;
/// Steps of 64 columns in a unit, at most.
pub(super) const MOST_STEPS: usize = 4;

/// 64 columns of a row, or four columns of 16 tokens.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [u8; TILE_BYTES]);

/// Sums of a row of each stream, of `N` tokens.
pub(super) type Sums<const N: usize> = [[[i32; N]; STREAMS]; TURNS];

/// Where the streams of some rows begin.
pub(super) struct Streams {
    pub(super) starts: [usize; STREAMS],
    /// Rows of each stream.
    pub(super) rows: usize,
}

impl Streams {
    /// Shares `count` rows from `first` on. Where they cannot be shared evenly, the last streams begin earlier, and some rows
    /// are computed more than once.
    pub(super) fn share(first: usize, count: usize) -> Streams {
        let rows = count.div_ceil(STREAMS);
        Streams { starts: std::array::from_fn(|stream| first + (stream * rows).min(count - rows)), rows }
    }

    /// Every row once, and where its sums are: as which row of which stream.
    pub(super) fn each(&self, mut each: impl FnMut(usize, (usize, usize))) {
        let mut next = self.starts[0];
        for (stream, start) in self.starts.into_iter().enumerate() {
            for row in next..start + self.rows {
                each(row, (row - start, stream));
            }
            next = start + self.rows;
        }
    }
}

/// 64 columns of 16 rows of activations as the second operand of a tile product: lines of four columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn arrange(rows: [&[i8; 64]; 16]) -> [[[i8; 4]; 16]; TILE_ROWS] {
    let mut square = [_mm512_setzero_si512(); 16];
    for (square, row) in square.iter_mut().zip(rows) {
        // SAFETY: the load is that of an array of 64 bytes.
        *square = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
    }
    // SAFETY: vectors are 16 groups of four bytes.
    unsafe { std::mem::transmute(transpose(square)) }
}

/// What the loop works on.
#[repr(C, align(64))]
pub(super) struct Work {
    /// Where each stream begins.
    streams: [*const u8; STREAMS],
    activations: *const u8,
    /// Units in a row.
    units: usize,
    /// Bytes from the end of the last unit of a row to the first unit of the next one.
    skip: isize,
    /// Units of this row that are still to be unpacked, and to be multiplied.
    to_unpack: usize,
    to_multiply: usize,
    /// Rounds that are left.
    rounds: usize,
    /// Two units of weights: of each, 16 rows × 64 columns per step.
    unpacked: [[[Line; TILE_ROWS]; MOST_STEPS]; 2],
}

impl Work {
    /// For `rows` rows of each stream, of `units` units of 64 bytes each, which lie `row_bytes` apart.
    pub(super) fn new(
        streams: [*const u8; STREAMS],
        rows: usize,
        row_bytes: usize,
        units: usize,
        activations: *const u8,
    ) -> Work {
        Work {
            streams,
            activations,
            units,
            skip: row_bytes as isize - 64 * units as isize,
            to_unpack: units,
            to_multiply: 0,
            rounds: rows * units + 1, // in the first nothing is multiplied, in the last nothing unpacked
            unpacked: [[[Line([0; TILE_BYTES]); TILE_ROWS]; MOST_STEPS]; 2],
        }
    }

    pub(super) const ACTIVATIONS: usize = offset_of!(Work, activations);
    pub(super) const UNITS: usize = offset_of!(Work, units);
    pub(super) const SKIP: usize = offset_of!(Work, skip);
    pub(super) const TO_UNPACK: usize = offset_of!(Work, to_unpack);
    pub(super) const TO_MULTIPLY: usize = offset_of!(Work, to_multiply);
    pub(super) const ROUNDS: usize = offset_of!(Work, rounds);
    pub(super) const UNPACKED: usize = offset_of!(Work, unpacked);
}

/// The loop, as one `asm!`. What differs:
///
/// - `prepare`: before the 16 rows of a unit are unpacked;
/// - `unpack`: from `[{row} + {at}]` to `[{out}]`, and 1024 bytes further for each further step;
/// - `next_unit`, `next_row`: after a unit, and a row, besides moving `at`;
/// - `multiply`: adds the products of the tiles at `{ready}` and of the activations at `{columns}` to `tmm0` and `tmm1`, and
///   moves `columns` on;
/// - further operands. `{step}` are the bytes of a step of activations, and of a tile of sums.
///
/// It reads the rows that `work` names and as many units of activations as a row has, and writes [`TURNS`] tiles of sums, of
/// `tokens / 4` tokens, for each row of the streams. It uses `zmm0` to `zmm4`, `k1`, `k2` and all tiles; tiles 0 to 3, 6 and 7
/// must be configured for 16 lines of `tokens` bytes, 4 and 5 as a whole.
macro_rules! multiply_streams {
    (
        work: $work:expr, tokens: $tokens:expr, sums: $sums:expr,
        prepare: [$($prepare:literal),*],
        unpack: [$($unpack:literal),*],
        next_unit: [$($next_unit:literal),*],
        next_row: [$($next_row:literal),*],
        multiply: [$($multiply:literal),*],
        $($operands:tt)*
    ) => {
        std::arch::asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "lea {fill}, [{work} + {unpacked}]",
            "lea {ready}, [{work} + {unpacked} + 4096]",
            "xor {at:e}, {at:e}",
            "2:", // unpack the unit that lies at `at` of every stream
            "cmp qword ptr [{work} + {rounds}], 1",
            "je 4f",
            $($prepare,)*
            "mov {out}, {fill}",
            "xor {stream:e}, {stream:e}",
            "3:",
            "mov {row}, [{work} + 8 * {stream}]",
            $($unpack,)*
            "add {out}, 64",
            "inc {stream}",
            "cmp {stream}, 16",
            "jb 3b",
            "add {at}, 64",
            $($next_unit,)*
            "dec qword ptr [{work} + {to_unpack}]",
            "jnz 4f",
            "mov {row}, [{work} + {units}]",
            "mov [{work} + {to_unpack}], {row}",
            "add {at}, [{work} + {skip}]",
            $($next_row,)*
            "4:", // multiply the unit that was unpacked in the round before
            "cmp qword ptr [{work} + {to_multiply}], 0",
            "je 5f",
            $($multiply,)*
            "dec qword ptr [{work} + {to_multiply}]",
            "jnz 6f",
            "tilestored [{sums} + {tokens}], tmm0",
            "tilestored [{sums} + {tokens} + {step}], tmm1",
            "tilezero tmm0",
            "tilezero tmm1",
            "add {sums}, 2 * {step}",
            "5:", // the next row of every stream
            "mov {columns}, [{work} + {activations}]",
            "mov {row}, [{work} + {units}]",
            "mov [{work} + {to_multiply}], {row}",
            "6:",
            "xchg {fill}, {ready}",
            "dec qword ptr [{work} + {rounds}]",
            "jnz 2b",
            work = in(reg) $work,
            tokens = in(reg) $tokens,
            sums = inout(reg) $sums => _,
            line = in(reg) TILE_BYTES,
            step = const 16 * $tokens,
            activations = const Work::ACTIVATIONS,
            units = const Work::UNITS,
            skip = const Work::SKIP,
            to_unpack = const Work::TO_UNPACK,
            to_multiply = const Work::TO_MULTIPLY,
            rounds = const Work::ROUNDS,
            unpacked = const Work::UNPACKED,
            at = out(reg) _, row = out(reg) _, stream = out(reg) _, out = out(reg) _,
            fill = out(reg) _, ready = out(reg) _, columns = out(reg) _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("k1") _, out("k2") _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            $($operands)*
            options(nostack),
        )
    };
}
pub(super) use multiply_streams;
