//! The GPT-2 spelling of bytes: every byte is a printable character, so that a vocabulary file is readable text.

/// Characters of the 256 bytes: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up, in order.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut byte = 0;
    let mut next = 0;
    while byte < 256 {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if printable { byte as u32 } else { 256 + next };
        next += !printable as u32;
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => '\0',
        };
        byte += 1;
    }
    chars
};

/// The inverse; -1 where a character stands for no byte.
const BYTES: [i16; 324] = {
    let mut bytes = [-1; 324];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = byte as i16;
        byte += 1;
    }
    bytes
};

/// Appends the spelling of `bytes`.
pub(super) fn spell(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&b| CHARS[b as usize]));
}

/// Appends the bytes that `text` spells; characters that stand for no byte are kept as they are.
pub(super) fn unspell(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match BYTES.get(c as usize) {
            Some(&byte) if byte >= 0 => out.push(byte as u8),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_of_known_bytes() {
        let mut text = String::new();
        spell(b" \n\x00a\xc3\xad\x7f", &mut text);
        assert_eq!(text, "ĠĊĀaÃŃġ"); // values of the GPT-2 encoder
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let (mut text, mut back) = (String::new(), Vec::new());
        spell(&all, &mut text);
        unspell(&text, &mut back);
        assert_eq!(back, all);
        assert_eq!(text.chars().collect::<std::collections::HashSet<_>>().len(), 256);
    }
}
