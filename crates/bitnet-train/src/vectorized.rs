//! Loops compiled for the vectors of the processor at hand.

use pulp::{Arch, NullaryFnOnce};

/// Runs a closure with the widest vectors that the processor has. Only what is inlined into it is compiled for them: the
/// closure has to be `#[inline(always)]`, and so has every function that it calls.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Body(body))
}

/// Calls by reference: calling a closure by value goes through a function of its own, which compilers do not inline.
struct Body<F>(F);

impl<R, F: FnMut() -> R> NullaryFnOnce for Body<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}
