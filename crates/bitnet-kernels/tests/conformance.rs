//! The CPU backend, every tier, against the conformance suite.

#[path = "conformance/suite.rs"]
mod suite;

use bitnet_kernels::{Cpu, CpuOptions, Isa};

#[test]
fn cpu_tiers_conform() {
    for isa in Isa::available() {
        for threads in [1, 2] {
            println!("tier {isa}, {threads} threads");
            let cpu = Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).expect("an available tier");
            suite::run(&cpu);
        }
    }
}
