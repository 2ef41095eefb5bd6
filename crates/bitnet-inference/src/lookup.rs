//! What followed the last words of a text when they stood there before.

/// So many tokens at least must have stood there before.
const SHORTEST: usize = 3;
/// No longer match is looked for.
const LONGEST: usize = 8;

/// What followed the longest repeated end of `tokens`, where it stood last: at most `most` of it.
pub(crate) fn continuation(tokens: &[u32], most: usize) -> &[u32] {
    let mut best = (SHORTEST - 1, 0);
    for end in (1..tokens.len()).rev() {
        let same =
            tokens[..end].iter().rev().zip(tokens.iter().rev()).take(LONGEST).take_while(|(a, b)| a == b).count();
        if same > best.0 {
            best = (same, end);
            if same == LONGEST {
                break;
            }
        }
    }
    match best.1 {
        0 => &[],
        end => &tokens[end..tokens.len().min(end + most)],
    }
}

#[cfg(test)]
mod tests {
    fn continuation(tokens: &[u32]) -> &[u32] {
        super::continuation(tokens, 8)
    }

    #[test]
    fn the_longest_repeated_end_goes_on_as_before() {
        assert_eq!(continuation(&[1, 2, 3, 4, 5, 1, 2, 3]), [4, 5, 1, 2, 3]);
        assert_eq!(continuation(&[1, 2, 3, 4]), [0u32; 0]);
        assert_eq!(continuation(&[7, 2, 3, 4, 1, 2, 3]), [0u32; 0], "two tokens are too few");
        // the longer match wins over the later one, the later over the earlier
        assert_eq!(continuation(&[9, 1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 1, 2, 3])[..1], [4]);
        assert_eq!(continuation(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3])[..1], [5]);
        assert_eq!(continuation(&[6; 5]), [6]);
        assert_eq!(continuation(&[]), [0u32; 0]);
    }
}
