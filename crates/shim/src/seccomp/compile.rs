//! Rules to classic BPF.

use super::{Comparison, Condition, Error, Instruction, Rule};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const INSTRUCTIONS_MAX: usize = 4096;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// x32 calls come with this bit on x86-64's own architecture; no kernel we meet has them.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// What a range of numbers leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Action(u32),
    /// Tried in order; the default action if none holds.
    Alternatives(Vec<(Vec<Condition>, u32)>),
}

pub(super) fn compile(default: u32, rules: Vec<Rule>) -> Result<Vec<Instruction>, Error> {
    let mut code = vec![
        statement(LOAD, OFFSET_ARCHITECTURE),
        branch(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        // Another architecture has other numbers.
        statement(RETURN, KILL_PROCESS),
        statement(LOAD, OFFSET_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    code.extend([
        branch(JUMP_GREATER_OR_EQUAL, X32_BIT, 0, 1),
        statement(RETURN, ERRNO | libc::ENOSYS as u32),
    ]);
    code.extend(search(&ranges(default, rules), default));
    if code.len() > INSTRUCTIONS_MAX {
        return Err(Error::TooLong(code.len()));
    }
    Ok(code)
}

/// First number of each range, ascending from 0, with its outcome; neighbours differ.
fn ranges(default: u32, mut rules: Vec<Rule>) -> Vec<(u32, Outcome)> {
    rules.sort_by_key(|rule| rule.number);
    let mut ranges = vec![(0, Outcome::Action(default))];
    let mut add = |start: u32, outcome: Outcome| {
        if let Some(last) = ranges.last_mut()
            && last.0 == start
        {
            last.1 = outcome;
        } else if ranges.last().is_none_or(|last| last.1 != outcome) {
            ranges.push((start, outcome));
        }
    };
    for group in rules.chunk_by(|a, b| a.number == b.number) {
        let number = group[0].number;
        // A rule without conditions settles it, wherever it stands: libseccomp does the same.
        let outcome = match group.iter().find(|rule| rule.conditions.is_empty()) {
            Some(rule) => Outcome::Action(rule.action),
            None => Outcome::Alternatives(
                group.iter().map(|rule| (rule.conditions.clone(), rule.action)).collect(),
            ),
        };
        add(number, outcome);
        add(number + 1, Outcome::Action(default));
    }
    // `add(number + 1, default)` followed by `add(number + 1, other)` may leave equal neighbours.
    ranges.dedup_by(|later, earlier| later.1 == earlier.1);
    ranges
}

/// A binary tree over the ranges, the number in the accumulator.
fn search(ranges: &[(u32, Outcome)], default: u32) -> Vec<Instruction> {
    if let [(_, outcome)] = ranges {
        return leaf(outcome, default);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let low_code = search(low, default);
    let mut code = match u8::try_from(low_code.len()) {
        Ok(length) => vec![branch(JUMP_GREATER_OR_EQUAL, high[0].0, length, 0)],
        Err(_) => {
            vec![branch(JUMP_GREATER_OR_EQUAL, high[0].0, 0, 1), statement(JUMP, low_code.len() as u32)]
        }
    };
    code.extend(low_code);
    code.extend(search(high, default));
    code
}

fn leaf(outcome: &Outcome, default: u32) -> Vec<Instruction> {
    let alternatives = match outcome {
        Outcome::Action(action) => return vec![statement(RETURN, *action)],
        Outcome::Alternatives(alternatives) => alternatives,
    };
    let mut code = Vec::new();
    for (conditions, action) in alternatives {
        // Each condition falls through when it holds and jumps behind the `return` when not. Built from the end,
        // so that the distance is known.
        let mut rest = vec![statement(RETURN, *action)];
        for condition in conditions.iter().rev() {
            let mut test = test(condition, rest.len() as u8);
            test.append(&mut rest);
            rest = test;
        }
        code.extend(rest);
    }
    code.push(statement(RETURN, default));
    code
}

/// Falls through if the condition holds, else skips `beyond` further instructions.
fn test(condition: &Condition, beyond: u8) -> Vec<Instruction> {
    let at = OFFSET_ARGUMENTS + 8 * u32::from(condition.argument);
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    let load_low = statement(LOAD, at);
    let load_high = statement(LOAD, at + 4);
    match condition.comparison {
        Comparison::Equal => vec![
            load_high,
            branch(JUMP_EQUAL, high, 0, beyond + 2),
            load_low,
            branch(JUMP_EQUAL, low, 0, beyond),
        ],
        Comparison::NotEqual => {
            vec![load_high, branch(JUMP_EQUAL, high, 0, 2), load_low, branch(JUMP_EQUAL, low, beyond, 0)]
        }
        Comparison::Masked(mask) => vec![
            load_high,
            statement(AND, (mask >> 32) as u32),
            branch(JUMP_EQUAL, high, 0, beyond + 3),
            load_low,
            statement(AND, mask as u32),
            branch(JUMP_EQUAL, low, 0, beyond),
        ],
        Comparison::Greater => vec![
            load_high,
            branch(JUMP_GREATER, high, 3, 0),
            branch(JUMP_EQUAL, high, 0, beyond + 2),
            load_low,
            branch(JUMP_GREATER, low, 0, beyond),
        ],
        Comparison::GreaterOrEqual => vec![
            load_high,
            branch(JUMP_GREATER, high, 3, 0),
            branch(JUMP_EQUAL, high, 0, beyond + 2),
            load_low,
            branch(JUMP_GREATER_OR_EQUAL, low, 0, beyond),
        ],
        Comparison::Less => vec![
            load_high,
            branch(JUMP_GREATER, high, beyond + 3, 0),
            branch(JUMP_EQUAL, high, 0, 2),
            load_low,
            branch(JUMP_GREATER_OR_EQUAL, low, beyond, 0),
        ],
        Comparison::LessOrEqual => vec![
            load_high,
            branch(JUMP_GREATER, high, beyond + 3, 0),
            branch(JUMP_EQUAL, high, 0, 2),
            load_low,
            branch(JUMP_GREATER, low, beyond, 0),
        ],
    }
}

fn statement(code: u16, k: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, k }
}

fn branch(code: u16, k: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALLOW: u32 = 0x7fff_0000;
    const DENY: u32 = ERRNO | 1;

    /// What the kernel would answer.
    fn run(code: &[Instruction], number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCHITECTURE => ARCHITECTURE,
            _ => {
                let argument = arguments[((offset - OFFSET_ARGUMENTS) / 8) as usize];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, k } = code[at];
            at += 1;
            let mut jump = |taken: bool| at += usize::from(if taken { if_true } else { if_false });
            match code {
                LOAD => accumulator = load(k),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => jump(accumulator == k),
                JUMP_GREATER => jump(accumulator > k),
                JUMP_GREATER_OR_EQUAL => jump(accumulator >= k),
                RETURN => return k,
                _ => panic!("unknown instruction {code}"),
            }
        }
    }

    fn holds(condition: &Condition, arguments: [u64; 6]) -> bool {
        let argument = arguments[usize::from(condition.argument)];
        match condition.comparison {
            Comparison::Equal => argument == condition.value,
            Comparison::NotEqual => argument != condition.value,
            Comparison::Less => argument < condition.value,
            Comparison::LessOrEqual => argument <= condition.value,
            Comparison::Greater => argument > condition.value,
            Comparison::GreaterOrEqual => argument >= condition.value,
            Comparison::Masked(mask) => argument & mask == condition.value,
        }
    }

    fn wanted(rules: &[Rule], number: u32, arguments: [u64; 6]) -> u32 {
        let of_number = || rules.iter().filter(|rule| rule.number == number);
        if let Some(rule) = of_number().find(|rule| rule.conditions.is_empty()) {
            return rule.action;
        }
        of_number()
            .find(|rule| rule.conditions.iter().all(|condition| holds(condition, arguments)))
            .map_or(DENY, |rule| rule.action)
    }

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..4, (0u64..3).prop_map(|n| (n << 32) | 1), any::<u64>()]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let comparison = prop_oneof![
            Just(Comparison::Equal),
            Just(Comparison::NotEqual),
            Just(Comparison::Less),
            Just(Comparison::LessOrEqual),
            Just(Comparison::Greater),
            Just(Comparison::GreaterOrEqual),
            value().prop_map(Comparison::Masked),
        ];
        (0u8..6, comparison, value()).prop_map(|(argument, comparison, value)| Condition {
            argument,
            comparison,
            value,
        })
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let action = prop_oneof![Just(ALLOW), Just(ERRNO | 38)];
        (0u32..60, action, proptest::collection::vec(condition(), 0..3))
            .prop_map(|(number, action, conditions)| Rule { number, action, conditions })
    }

    proptest! {
        #[test]
        fn the_program_says_what_the_rules_say(
            rules in proptest::collection::vec(rule(), 0..40),
            calls in proptest::collection::vec((0u32..64, [value(), value(), value(), value(), value(), value()]), 50),
        ) {
            let code = compile(DENY, rules.clone()).unwrap();
            for (number, arguments) in calls {
                prop_assert_eq!(run(&code, number, arguments), wanted(&rules, number, arguments));
            }
        }
    }

    #[test]
    fn the_default_profile_decides_as_meant() {
        let filter = super::super::Filter::default_filter().unwrap();
        let ask = |number: libc::c_long, first: u64| run(&filter.0, number as u32, [first, 0, 0, 0, 0, 0]);
        assert_eq!(ask(libc::SYS_read, 0), ALLOW);
        assert_eq!(ask(libc::SYS_clone, libc::SIGCHLD as u64), ALLOW);
        assert_eq!(ask(libc::SYS_clone, libc::CLONE_NEWUSER as u64), DENY);
        assert_eq!(ask(libc::SYS_clone3, 0), ERRNO | libc::ENOSYS as u32);
        assert_eq!(ask(libc::SYS_socket, 2), ALLOW);
        for family in [libc::AF_VSOCK, libc::AF_ALG, libc::AF_TIPC] {
            assert_eq!(ask(libc::SYS_socket, family as u64), DENY, "{family}");
        }
        assert_eq!(ask(libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(ask(libc::SYS_personality, 1), DENY);
        for denied in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_kexec_load,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_reboot,
            libc::SYS_init_module,
            libc::SYS_pivot_root,
        ] {
            assert_eq!(ask(denied, 0), DENY, "{denied}");
        }
        assert_eq!(ask(100_000, 0), DENY);
    }
}
