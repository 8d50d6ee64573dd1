//! In what a test's tasks run: containers, or machines of their own.

use std::cell::Cell;

use crate::places;

thread_local! {
    static MACHINES: Cell<bool> = const { Cell::new(false) };
}

/// For `ferrogate up`: every task in a micro-VM, emulated, as no machine of a test need have KVM.
pub fn in_machines() -> Vec<String> {
    let kernel = places::kernel().to_string_lossy().into_owned();
    ["--isolation", "microvm", "--emulate", "--guest-kernel", &kernel].map(str::to_owned).to_vec()
}

/// Whether tasks are to be in machines where a test does not say otherwise: it runs by [`machines!`](crate::machines), or under
/// `FERROGATE_TEST_ISOLATION=microvm`.
pub fn machines_wanted() -> bool {
    MACHINES.get() || std::env::var("FERROGATE_TEST_ISOLATION").is_ok_and(|isolation| isolation == "microvm")
}

/// The same test, with its tasks in machines. For [`machines!`](crate::machines).
pub fn with_machines(test: impl FnOnce()) {
    MACHINES.set(true);
    test();
    MACHINES.set(false);
}

/// These tests of the module are tests of micro-VMs as well: `module::in_machines::test`. Each capability of a task is in one
/// of them; all others are to pass there too (`FERROGATE_TEST_ISOLATION=microvm`), but take longer than CI has.
#[macro_export]
macro_rules! machines {
    ($($test:ident),+ $(,)?) => {
        mod in_machines {
            $(
                #[test]
                fn $test() {
                    $crate::with_machines(super::$test);
                }
            )+
        }
    };
}
