//! Event files of TensorBoard: protocol buffers in records with check sums.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file, to which scalars are appended.
pub(crate) struct EventFile(File);

impl EventFile {
    /// A new file in `dir`: a resumed run goes on in another one, which TensorBoard puts together by steps.
    pub(crate) fn create(dir: &Path) -> io::Result<EventFile> {
        let now = seconds();
        let name = format!("events.out.tfevents.{now:.6}.bitnet");
        let mut file = EventFile(OpenOptions::new().create(true).append(true).open(dir.join(name))?);
        // Event { wall_time = 1, file_version = 3 }
        let mut event = wall_time(now);
        bytes(3, b"brain.Event:2", &mut event);
        file.append(&event)?;
        Ok(file)
    }

    /// Adds scalars at a step.
    pub(crate) fn scalars(&mut self, step: usize, scalars: &[(&str, f64)]) -> io::Result<()> {
        self.append(&event(seconds(), step, scalars))
    }

    fn append(&mut self, event: &[u8]) -> io::Result<()> {
        self.0.write_all(&record(event))
    }
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } … } }`
fn event(now: f64, step: usize, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut one = Vec::new();
        bytes(1, tag.as_bytes(), &mut one);
        one.push(2 << 3 | 5);
        one.extend((*value as f32).to_le_bytes());
        bytes(1, &one, &mut summary);
    }
    let mut event = wall_time(now);
    event.push(2 << 3);
    varint(step as u64, &mut event);
    bytes(5, &summary, &mut event);
    event
}

fn wall_time(now: f64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(now.to_le_bytes());
    out
}

/// A field of bytes.
fn bytes(field: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    varint(value.len() as u64, out);
    out.extend(value);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Length, its check sum, the data, their check sum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

/// CRC-32C, turned and shifted as TensorFlow has it, so that sums of sums differ.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32 with Castagnoli's polynomial, bit by bit: events are short.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !data.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_sums() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // the check value of CRC-32C
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa); // RFC 3720, B.4
        // the first twelve bytes of every event file that TensorFlow writes: 24 bytes follow, and the sum of that
        assert_eq!(record(&[0; 24])[..8], [24, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(record(&[0; 24])[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn an_event_by_hand() {
        let found = event(1.0, 300, &[("loss", 0.5)]);
        let want = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f][..], // wall_time = 1.0
            &[0x10, 0xac, 0x02],                       // step = 300
            &[0x2a, 13, 0x0a, 11],                     // summary { value
            &[0x0a, 4, b'l', b'o', b's', b's', 0x15, 0, 0, 0, 0x3f],
        ];
        assert_eq!(found, want.concat());
    }

    #[test]
    fn a_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(dir.path()).unwrap();
        file.scalars(1, &[("loss", 2.0)]).unwrap();
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        assert!(path.file_name().unwrap().to_string_lossy().contains("tfevents"));
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(bytes[0], 24, "version: 9 bytes of time, 15 of text");
        assert_eq!(&bytes[12 + 11..12 + 24], b"brain.Event:2");
    }
}
