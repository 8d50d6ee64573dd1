//! Sizes of tasks: what Fargate offers, and how people write it.

use ferrogate_api::ApiError;

use crate::errors::client;

/// Memory that goes with a CPU size: from `least` to `most` MiB in steps.
struct Size {
    cpu_units: u32,
    least: u32,
    most: u32,
    step: u32,
}

const fn size(cpu_units: u32, least: u32, most: u32, step: u32) -> Size {
    Size { cpu_units, least, most, step }
}

const SIZES: &[Size] = &[
    size(256, 512, 1024, 512),
    size(256, 2048, 2048, 1),
    size(512, 1024, 4096, 1024),
    size(1024, 2048, 8192, 1024),
    size(2048, 4096, 16_384, 1024),
    size(4096, 8192, 30_720, 1024),
    size(8192, 16_384, 61_440, 4096),
    size(16_384, 32_768, 122_880, 8192),
];

/// Whether Fargate has tasks of this size.
fn is_offered(cpu_units: u32, memory_mib: u32) -> bool {
    SIZES.iter().any(|size| {
        size.cpu_units == cpu_units
            && (size.least..=size.most).contains(&memory_mib)
            && (memory_mib - size.least).is_multiple_of(size.step)
    })
}

pub(crate) fn check(cpu_units: u32, memory_mib: u32) -> Result<(), ApiError> {
    if is_offered(cpu_units, memory_mib) {
        Ok(())
    } else {
        Err(client("No Fargate configuration exists for given values."))
    }
}

/// `256`, `.25 vCPU`, `1 vcpu`
pub(crate) fn cpu_units(text: &str) -> Result<u32, ApiError> {
    parse(text, "vcpu").ok_or_else(|| client("Invalid 'cpu' setting for task."))
}

/// `512`, `0.5 GB`, `1gb`
pub(crate) fn memory_mib(text: &str) -> Result<u32, ApiError> {
    parse(text, "gb").ok_or_else(|| client("Invalid 'memory' setting for task."))
}

/// A count, or a number of units of 1024.
fn parse(text: &str, unit: &str) -> Option<u32> {
    let text = text.trim().to_ascii_lowercase();
    let Some(number) = text.strip_suffix(unit) else {
        return text.parse().ok().filter(|count| *count > 0);
    };
    let number = number.trim_end();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let count = number.parse::<f64>().ok()? * 1024.0;
    // More than any size there is, and exact where it matters.
    (count.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&count)).then_some(count as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the ECS API reference, RegisterTaskDefinition, `cpu`.
    #[test]
    fn the_table() {
        let mut offered = Vec::new();
        for cpu in [256, 512, 1024, 2048, 4096, 8192, 16_384] {
            offered.push(
                (0..=250).map(|n| n * 512).filter(|memory| is_offered(cpu, *memory)).collect::<Vec<u32>>(),
            );
        }
        let steps = |least: u32, most: u32, step: usize| (least..=most).step_by(step).collect::<Vec<u32>>();
        assert_eq!(
            offered,
            [
                vec![512, 1024, 2048],
                steps(1024, 4096, 1024),
                steps(2048, 8192, 1024),
                steps(4096, 16_384, 1024),
                steps(8192, 30_720, 1024),
                steps(16_384, 61_440, 4096),
                steps(32_768, 122_880, 8192),
            ]
        );
        for (cpu, memory) in [(128, 512), (256, 513), (256, 0), (300, 512), (1024, 2049), (8192, 17_408)] {
            assert!(!is_offered(cpu, memory), "{cpu} {memory}");
        }
    }

    #[test]
    fn units() {
        for (text, units) in [
            ("256", 256),
            ("1 vCPU", 1024),
            ("1vcpu", 1024),
            (".25 vCPU", 256),
            ("0.5 VCPU", 512),
            (" 16 vCPU ", 16_384),
        ] {
            assert_eq!(cpu_units(text), Ok(units), "{text}");
        }
        for (text, mib) in [("512", 512), ("0.5 GB", 512), ("1GB", 1024), ("2 gb", 2048), ("120GB", 122_880)]
        {
            assert_eq!(memory_mib(text), Ok(mib), "{text}");
        }
        for text in
            ["", "x", "-1", "0", "1.5", "vCPU", "1 GHz", "1e3 vCPU", "nan vCPU", "inf vCPU", "0.0001 vCPU"]
        {
            assert_eq!(cpu_units(text).unwrap_err().message, "Invalid 'cpu' setting for task.", "{text}");
        }
    }
}
