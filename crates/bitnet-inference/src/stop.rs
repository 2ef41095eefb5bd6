//! Stop texts, also across token borders.

/// Finds the first stop text in text that arrives in pieces. Only what could be the beginning of a stop text is held
/// back.
#[derive(Clone, Debug)]
pub(crate) struct StopTexts {
    stops: Vec<String>,
    /// A proper prefix of some stop text, not yet given out.
    held: String,
}

impl StopTexts {
    /// Empty stop texts would match everywhere; callers refuse them.
    pub(crate) fn new(stops: &[String]) -> Self {
        debug_assert!(stops.iter().all(|s| !s.is_empty()));
        StopTexts { stops: stops.to_vec(), held: String::new() }
    }

    /// Takes the next piece and appends to `out` what is certain not to belong to a stop text. When one is
    /// complete, its place among them: everything before it is in `out`, it and what follows are not.
    pub(crate) fn push(&mut self, piece: &str, out: &mut String) -> Option<usize> {
        if self.stops.is_empty() {
            out.push_str(piece);
            return None;
        }
        self.held.push_str(piece);
        // the earliest match; of several beginning there any will do, since none is emitted
        let found = |(nth, stop): (usize, &String)| Some((self.held.find(stop.as_str())?, nth));
        if let Some((start, nth)) = self.stops.iter().enumerate().filter_map(found).min() {
            out.push_str(&self.held[..start]);
            self.held.clear();
            return Some(nth);
        }
        let begins_stop = |tail: &str| self.stops.iter().any(|stop| stop.starts_with(tail));
        let keep = self.held.char_indices().map(|(i, _)| i).find(|&i| begins_stop(&self.held[i..]));
        out.extend(self.held.drain(..keep.unwrap_or(self.held.len())));
        None
    }

    /// At the end of generation: what is held back was no stop text after all.
    pub(crate) fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopTexts::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let mut outs = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            let stopped = matcher.push(piece, &mut out);
            outs.push(out);
            if stopped.is_some() {
                return (outs, true);
            }
        }
        let mut out = String::new();
        matcher.finish(&mut out);
        outs.push(out);
        (outs, false)
    }

    #[test]
    fn a_stop_across_pieces_is_not_emitted() {
        assert_eq!(pieces(&["END"], &["abE", "N", "Dxyz"]), (vec!["ab".into(), "".into(), "".into()], true));
        assert_eq!(pieces(&["END"], &["abE", "Nx"]), (vec!["ab".into(), "ENx".into(), "".into()], false));
        assert_eq!(pieces(&["END"], &["aE"]), (vec!["a".into(), "E".into()], false));
    }

    #[test]
    fn the_earliest_stop_wins() {
        assert_eq!(pieces(&["cd", "bcde"], &["abcd"]), (vec!["ab".into()], true));
        assert_eq!(pieces(&["x", "b"], &["abx"]), (vec!["a".into()], true));
    }

    #[test]
    fn the_place_of_the_stop_that_was_found() {
        let mut matcher = StopTexts::new(&["zz".into(), "x".into(), "b".into()]);
        assert_eq!(matcher.push("a", &mut String::new()), None);
        assert_eq!(matcher.push("bx", &mut String::new()), Some(2));
    }

    #[test]
    fn only_the_possible_beginning_is_held_back() {
        assert_eq!(pieces(&["aab"], &["aaa", "b"]), (vec!["a".into(), "".into()], true));
        assert_eq!(pieces(&["日本"], &["ab日", "曜", "日本"]), (vec!["ab".into(), "日曜".into(), "".into()], true));
    }

    proptest! {
        /// Whatever the cuts: the text before the first stop, all of it.
        #[test]
        fn cuts_do_not_matter(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 0..3), cut in 1usize..5) {
            let chars: Vec<char> = text.chars().collect();
            let cuts: Vec<String> = chars.chunks(cut).map(|c| c.iter().collect()).collect();
            let (outs, stopped) = pieces(
                &stops.iter().map(String::as_str).collect::<Vec<_>>(),
                &cuts.iter().map(String::as_str).collect::<Vec<_>>(),
            );
            // with several stop texts the first one *completed* ends the text
            let end = (0..=text.len()).filter(|&i| text.is_char_boundary(i))
                .find(|&i| stops.iter().any(|s| text[..i].ends_with(s.as_str())));
            prop_assert_eq!(stopped, end.is_some());
            if cut == 1 {
                let expected = match end {
                    Some(end) => {
                        let longest = stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(String::len).max();
                        &text[..end - longest.unwrap_or(0)]
                    }
                    None => &text[..],
                };
                prop_assert_eq!(outs.concat(), expected);
            } else {
                prop_assert!(text.starts_with(&outs.concat()));
                prop_assert!(!stops.iter().any(|s| outs.concat().contains(s.as_str())));
            }
        }
    }
}
