//! The next size up; ECS developer guide, "Task CPU and memory".

/// (CPU units, least MiB, most MiB, step)
const SIZES: [(u32, u32, u32, u32); 7] = [
    (256, 512, 2048, 1024),
    (512, 1024, 4096, 1024),
    (1024, 2048, 8192, 1024),
    (2048, 4096, 16_384, 1024),
    (4096, 8192, 30_720, 1024),
    (8192, 16_384, 61_440, 4096),
    (16_384, 32_768, 122_880, 8192),
];

/// The smallest size with more memory, keeping the CPU where that allows it: (CPU units, MiB).
pub(crate) fn next_memory(cpu: u32, memory_mib: u32) -> Option<(u32, u32)> {
    SIZES.iter().filter(|(units, ..)| *units >= cpu).find_map(|(units, least, most, step)| {
        let mut size = *least;
        while size <= *most {
            if size > memory_mib {
                return Some((*units, size));
            }
            // 512 is followed by 1024.
            size = if size < *step { *step } else { size + step };
        }
        None
    })
}
