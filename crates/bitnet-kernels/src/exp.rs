//! Our own `exp`: the same bits in every tier.
