//! TL1 and TL2, the lookup-table layouts of bitnet.cpp (formats.md §2.2, §2.3). Their tile parameters are not in the
//! file, so a file can only be read by someone who knows the build that made it.

use super::{Encoding, Scales, Ternary, TileParams};
use crate::FormatError;

/// The scale and its padding.
const TAIL: usize = 32;

/// Position of a four-bit code: byte, and whether it is the upper half.
type Nibble = (usize, bool);

fn read(bytes: &[u8], (byte, high): Nibble) -> u8 {
    if high { bytes[byte] >> 4 } else { bytes[byte] & 15 }
}

fn write(bytes: &mut [u8], (byte, high): Nibble, code: u8) {
    bytes[byte] |= if high { code << 4 } else { code };
}

/// The scale at the start of the last 32 bytes.
fn read_scale(encoding: Encoding, bytes: &[u8]) -> Result<f32, FormatError> {
    let tail = &bytes[bytes.len() - TAIL..];
    encoding.check_scale(f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]))
}

fn write_scale(bytes: &mut [u8], scale: f32) {
    let at = bytes.len() - TAIL;
    bytes[at..at + 4].copy_from_slice(&scale.to_le_bytes());
}

/// Two codes in one nibble: `3a + b + 4`.
fn read_pair(encoding: Encoding, code: u8, at: usize, cols: usize) -> Result<[i8; 2], FormatError> {
    if code > 8 {
        let reason = format!("pair code {code} is above 8: the data is damaged or the tile parameters are wrong");
        return Err(encoding.error_at(at, cols, reason));
    }
    Ok([(code / 3) as i8 - 1, (code % 3) as i8 - 1])
}

fn pair_code(a: i8, b: i8) -> u8 {
    (3 * a + b + 4) as u8
}

/// Refuses parameters that do not tile the matrix.
fn check(encoding: Encoding, fits: bool, what: &str, rows: usize, cols: usize) -> Result<(), FormatError> {
    if fits {
        return Ok(());
    }
    let TileParams { bm_tile, bk_tile, bm } = match encoding {
        Encoding::Tl1(p) | Encoding::Tl2(p) => p,
        _ => TileParams { bm_tile: 0, bk_tile: 0, bm: 0 },
    };
    Err(encoding.error(format!(
        "tile parameters BM={bm_tile}, BK={bk_tile}, bm={bm} are impossible for a matrix of {rows} x {cols}: {what}"
    )))
}

/// Pairs of columns for ARM.
pub(super) struct Tl1 {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    bm_tile: usize,
    bk_tile: usize,
    bm: usize,
    by: usize,
}

impl Tl1 {
    pub(super) fn new(params: TileParams, rows: usize, cols: usize) -> Result<Self, FormatError> {
        let encoding = Encoding::Tl1(params);
        let (bm_tile, bk_tile, bm) = (params.bm_tile as usize, params.bk_tile as usize, params.bm as usize);
        let check = |fits, what| check(encoding, fits, what, rows, cols);
        check(bm == 32 || bm == 64, "bm must be 32 or 64")?;
        let by = 256 / bm;
        check(bm_tile > 0 && bm_tile % bm == 0, "BM must be a multiple of bm")?;
        check(bk_tile > 0 && bk_tile % by == 0, "BK must be a multiple of 256 / bm")?;
        check(rows.is_multiple_of(bm_tile), "the rows must be a multiple of BM")?;
        check(cols.is_multiple_of(bk_tile), "the columns must be a multiple of BK")?;
        check(rows.checked_mul(cols).is_some(), "the matrix is too large")?;
        Ok(Tl1 { encoding, rows, cols, bm_tile, bk_tile, bm, by })
    }

    pub(super) fn byte_len(&self) -> usize {
        self.rows * self.cols / 4 + TAIL
    }

    /// Position of the pair that begins at the even column `k` of row `m`.
    fn position(&self, m: usize, k: usize) -> Nibble {
        let Tl1 { cols, bm_tile, bk_tile, bm, by, .. } = *self;
        let (b, kb, mi, ki) = (m / bm_tile, k / bk_tile, m % bm_tile / bm, k % bk_tile / by);
        let (mg, kq, r) = (m % bm / 16, k % by / 4, m % 16);
        let tile = ((b * (cols / bk_tile) + kb) * (bm_tile / bm) + mi) * (bk_tile / by) + ki;
        (((tile * (bm / 16) + mg) * (by / 4) + kq) * 16 + r, k % 4 < 2)
    }

    /// `bytes` has the right length.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Ternary, FormatError> {
        let scale = read_scale(self.encoding, bytes)?;
        let mut codes = Vec::with_capacity(self.rows * self.cols);
        for m in 0..self.rows {
            for k in (0..self.cols).step_by(2) {
                let code = read(bytes, self.position(m, k));
                codes.extend(read_pair(self.encoding, code, codes.len(), self.cols)?);
            }
        }
        Ok(Ternary { rows: self.rows, cols: self.cols, codes, scales: Scales::Tensor(scale) })
    }

    /// `weights` is checked, has this shape, and `scale` is its scale.
    pub(super) fn encode(&self, weights: &Ternary, scale: f32) -> Result<Vec<u8>, FormatError> {
        let mut bytes = vec![0; self.byte_len()];
        for (i, pair) in weights.codes.chunks_exact(2).enumerate() {
            let (m, k) = (2 * i / self.cols, 2 * i % self.cols);
            write(&mut bytes, self.position(m, k), pair_code(pair[0], pair[1]));
        }
        write_scale(&mut bytes, scale);
        Ok(bytes)
    }
}

/// Triples and pairs of columns for x86.
pub(super) struct Tl2 {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    bm_tile: usize,
    bk_tile: usize,
    /// Columns in triples; the others are in pairs.
    triple_cols: usize,
    /// All bytes before the tail.
    body: usize,
}

impl Tl2 {
    pub(super) fn new(params: TileParams, rows: usize, cols: usize) -> Result<Self, FormatError> {
        let encoding = Encoding::Tl2(params);
        let (bm_tile, bk_tile) = (params.bm_tile as usize, params.bk_tile as usize);
        let check = |fits, what| check(encoding, fits, what, rows, cols);
        check(params.bm == 32, "bm must be 32")?;
        check(bm_tile > 0 && bm_tile % 32 == 0, "BM must be a multiple of 32")?;
        check(bk_tile > 0 && bk_tile % 24 == 0, "BK must be a multiple of 24")?;
        check(rows.is_multiple_of(bm_tile), "the rows must be a multiple of BM")?;
        check((cols % bk_tile).is_multiple_of(32), "the columns beyond whole BK must be a multiple of 32")?;
        check(cols >= 256, "there must be at least 256 columns")?;
        let triple_cols = cols - cols % bk_tile;
        // The writer's size, as it computes it: as if 256 columns were in pairs.
        let size = |rows: usize| {
            let triples = ((cols - 256).checked_mul(rows)? / 3).checked_mul(5)? / 8;
            let pairs = (rows.checked_mul(256)? / 2).checked_mul(4)? / 8;
            triples.checked_add(pairs)?.checked_next_multiple_of(32)
        };
        let Some(body) = size(rows).filter(|body| body.checked_add(TAIL).is_some()) else {
            return Err(encoding.error(format!("a matrix of {rows} x {cols} is too large")));
        };
        let tl2 = Tl2 { encoding, rows, cols, bm_tile, bk_tile, triple_cols, body };
        check(rows.checked_mul(cols).is_some(), "the matrix is too large")?;
        check(tl2.pairs_at() + rows * (cols - triple_cols) / 4 <= body, "more than 256 columns would be in pairs")?;
        Ok(tl2)
    }

    pub(super) fn byte_len(&self) -> usize {
        self.body + TAIL
    }

    fn signs_at(&self) -> usize {
        self.rows * self.triple_cols / 6
    }

    fn pairs_at(&self) -> usize {
        self.signs_at() + self.rows * self.triple_cols / 24
    }

    /// Tile row, row of 32 inside it, and place inside the 32, where the groups of eight stand in the order 0, 2, 1, 3.
    fn row(&self, m: usize) -> (usize, usize, usize) {
        let group = [0, 2, 1, 3][m % 32 / 8];
        (m / self.bm_tile, m % self.bm_tile / 32, 8 * group + m % 8)
    }

    /// Position of the magnitude of the triple that begins at column `k` of row `m`.
    fn magnitude(&self, m: usize, k: usize) -> Nibble {
        let (b, mi, s) = self.row(m);
        let tile = (b * (self.triple_cols / self.bk_tile) + k / self.bk_tile) * (self.bm_tile / 32) + mi;
        ((tile * (self.bk_tile / 6) + k % self.bk_tile / 6) * 32 + s, k % 6 < 3)
    }

    /// Byte and bit of the sign of that triple, in a little-endian u16 per row and 8 triples.
    fn sign(&self, m: usize, k: usize) -> (usize, usize) {
        let (b, mi, _) = self.row(m);
        let tile = (b * (self.triple_cols / self.bk_tile) + k / self.bk_tile) * (self.bm_tile / 32) + mi;
        let word = (tile * (self.bk_tile / 24) + k % self.bk_tile / 24) * 32 + 2 * (m % 16);
        let bit = 15 - (2 * (k % 24 / 3) + m % 32 / 16);
        (self.signs_at() + word + bit / 8, bit % 8)
    }

    /// Position of the pair that begins at the even column `k >= triple_cols` of row `m`.
    fn pair(&self, m: usize, k: usize) -> Nibble {
        let (b, mi, s) = self.row(m);
        let q = k - self.triple_cols;
        let tile = (b * ((self.cols - self.triple_cols) / 32) + q / 32) * (self.bm_tile / 32) + mi;
        (self.pairs_at() + (tile * 8 + q % 32 / 4) * 32 + s, q % 4 < 2)
    }

    /// `bytes` has the right length.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Ternary, FormatError> {
        let scale = read_scale(self.encoding, bytes)?;
        let mut codes = Vec::with_capacity(self.rows * self.cols);
        for m in 0..self.rows {
            for k in (0..self.triple_cols).step_by(3) {
                let magnitude = read(bytes, self.magnitude(m, k)) as i8;
                if magnitude > 13 {
                    let reason = format!(
                        "triple code {magnitude} is above 13: the data is damaged or the tile parameters are wrong"
                    );
                    return Err(self.encoding.error_at(codes.len(), self.cols, reason));
                }
                let (byte, bit) = self.sign(m, k);
                let v = if bytes[byte] >> bit & 1 == 1 { -magnitude } else { magnitude };
                let a = (v + 13) / 9 - 1;
                let b = (v - 9 * a + 4) / 3 - 1;
                codes.extend([a, b, v - 9 * a - 3 * b]);
            }
            for k in (self.triple_cols..self.cols).step_by(2) {
                let code = read(bytes, self.pair(m, k));
                codes.extend(read_pair(self.encoding, code, codes.len(), self.cols)?);
            }
        }
        Ok(Ternary { rows: self.rows, cols: self.cols, codes, scales: Scales::Tensor(scale) })
    }

    /// `weights` is checked, has this shape, and `scale` is its scale.
    pub(super) fn encode(&self, weights: &Ternary, scale: f32) -> Result<Vec<u8>, FormatError> {
        let mut bytes = vec![0; self.byte_len()];
        for (m, row) in weights.codes.chunks_exact(self.cols).enumerate() {
            let (triples, pairs) = row.split_at(self.triple_cols);
            for (i, t) in triples.chunks_exact(3).enumerate() {
                let v = 9 * t[0] + 3 * t[1] + t[2];
                write(&mut bytes, self.magnitude(m, 3 * i), v.unsigned_abs());
                let (byte, bit) = self.sign(m, 3 * i);
                bytes[byte] |= u8::from(v < 0) << bit;
            }
            for (i, p) in pairs.chunks_exact(2).enumerate() {
                write(&mut bytes, self.pair(m, self.triple_cols + 2 * i), pair_code(p[0], p[1]));
            }
        }
        write_scale(&mut bytes, scale);
        Ok(bytes)
    }
}
