//! Sixteen virtual lanes: the reduction order of all float sums.
