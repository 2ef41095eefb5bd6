//! The self-test and the conformance suite as a WebAssembly module, which `cargo run -p xtask -- cross-test --target
//! wasm32-unknown-unknown` runs under Node.

#[path = "../tests/conformance/suite.rs"]
#[allow(dead_code)]
mod suite;

use bitnet_kernels::{Cpu, CpuOptions, Isa, self_test};

/// How many tiers have the bits of the scalar oracle and conform. What does not ends in a trap.
#[unsafe(no_mangle)]
pub extern "C" fn conforming_tiers() -> u32 {
    let tiers = Isa::available();
    for &isa in &tiers {
        self_test(isa).expect("the bits of the scalar oracle");
        suite::run(&Cpu::new(CpuOptions { threads: Some(1), isa: Some(isa) }).expect("an available tier"));
    }
    tiers.len() as u32
}
