//! A BPF `sk_lookup` program that hands connections and datagrams for public addresses to two sockets of ours,
//! whatever the port. It belongs to the descriptor we hold: when the process dies, it is gone.
//!
//! A trie says which (address, protocol, port) is steered. An address of ours that is not open on a port is
//! refused there at once, even when some server of the host listens on all addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::plan::HostPorts;

/// (address, protocol, range of ports) takes up to 30 entries; ranges are mostly one.
const ENTRIES_MAX: u32 = 1 << 18;
/// Address, protocol and port.
const KEY_BITS: u32 = 64;
const KEY_BYTES: u32 = 12;
/// The bits before the port.
const ADDRESS_BITS: u32 = 32;
const PROTOCOL_BITS: u32 = 48;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
const VERIFIER_LOG_BYTES: usize = 16 * 1024;

const TCP: u8 = 6;
const TCP_INDEX: u32 = 0;
const UDP_INDEX: u32 = 1;

/// `1`: steer; `0`: refuse.
type Entries = BTreeMap<Key, u32>;

/// As the kernel's trie wants it: prefix length, then bits in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    prefix: u32,
    address: Ipv4Addr,
    protocol: u8,
    port: u16,
}

impl Key {
    fn bytes(&self) -> [u8; KEY_BYTES as usize] {
        let mut bytes = [0; KEY_BYTES as usize];
        bytes[0..4].copy_from_slice(&self.prefix.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.address.octets());
        bytes[8..10].copy_from_slice(&u16::from(self.protocol).to_be_bytes());
        bytes[10..12].copy_from_slice(&self.port.to_be_bytes());
        bytes
    }
}

#[derive(Debug)]
pub(super) struct SkLookup {
    trie: OwnedFd,
    /// The program and its sockets stand as long as the link does.
    _link: OwnedFd,
    entries: Entries,
}

impl SkLookup {
    /// In the namespace of the calling thread, which is that of the sockets.
    pub(super) fn attach(listener: &impl AsRawFd, datagrams: &impl AsRawFd) -> io::Result<Self> {
        let trie = create_map(BPF_MAP_TYPE_LPM_TRIE, KEY_BYTES, ENTRIES_MAX, BPF_F_NO_PREALLOC)?;
        let sockets = create_map(BPF_MAP_TYPE_SOCKMAP, 4, 2, 0)?;
        for (index, socket) in [(TCP_INDEX, listener.as_raw_fd()), (UDP_INDEX, datagrams.as_raw_fd())] {
            update(&sockets, &index.to_ne_bytes(), socket as u32)?;
        }
        let program = load(&instructions(trie.as_raw_fd(), sockets.as_raw_fd()))?;
        Ok(Self { trie, _link: link(&program)?, entries: Entries::new() })
    }

    pub(super) fn set(&mut self, public: &BTreeMap<Ipv4Addr, HostPorts>) -> io::Result<()> {
        let wanted = entries(public);
        for (key, value) in &wanted {
            if self.entries.get(key) != Some(value) {
                update(&self.trie, &key.bytes(), *value)?;
                self.entries.insert(*key, *value);
            }
        }
        let gone: Vec<Key> = self.entries.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
        for key in gone {
            delete(&self.trie, &key.bytes())?;
            self.entries.remove(&key);
        }
        Ok(())
    }
}

fn entries(public: &BTreeMap<Ipv4Addr, HostPorts>) -> Entries {
    let mut entries = Entries::new();
    for (address, open) in public {
        entries.insert(Key { prefix: ADDRESS_BITS, address: *address, protocol: 0, port: 0 }, 0);
        for (protocol, first, last) in open {
            for (port, bits) in prefixes(*first, *last) {
                let key = Key { prefix: PROTOCOL_BITS + bits, address: *address, protocol: *protocol, port };
                entries.insert(key, 1);
            }
        }
    }
    entries
}

/// The fewest (port, significant bits) that make up the range.
fn prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let (mut next, last) = (u32::from(first), u32::from(last));
    let mut prefixes = Vec::new();
    while next <= last {
        let mut size = 1 << next.trailing_zeros().min(16);
        while next + size - 1 > last {
            size /= 2;
        }
        prefixes.push((next as u16, 16 - size.trailing_zeros()));
        next += size;
    }
    prefixes
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Gives one address and port of the calling thread's namespace to a listener that is bound to another port: whoever
/// binds that port on all addresses is not in its way. It stands as long as the descriptor.
pub(crate) fn one_door(listener: &impl AsRawFd, address: SocketAddrV4) -> io::Result<OwnedFd> {
    let sockets = create_map(BPF_MAP_TYPE_SOCKMAP, 4, 1, 0)?;
    update(&sockets, &0u32.to_ne_bytes(), listener.as_raw_fd() as u32)?;
    let program = load(&door_instructions(sockets.as_raw_fd(), address))?;
    link(&program)
}

/// Into the namespace of the calling thread.
fn link(program: &OwnedFd) -> io::Result<OwnedFd> {
    let namespace = std::fs::File::open("/proc/thread-self/ns/net")?;
    let attribute = LinkAttribute {
        program: program.as_raw_fd() as u32,
        target: namespace.as_raw_fd() as u32,
        attach_type: BPF_SK_LOOKUP,
        flags: 0,
    };
    bpf(BPF_LINK_CREATE, &attribute).map(descriptor)
}

/// As [`instructions`], for one TCP address.
fn door_instructions(sockets: RawFd, address: SocketAddrV4) -> Vec<Instruction> {
    const JUMP_UNLESS_EQUAL: u8 = 0x56;
    const JUMP_IF_EQUAL: u8 = 0x15;
    let op = |code: u8, dst: u8, src: u8, offset: i16, immediate: i32| Instruction {
        code,
        registers: dst | (src << 4),
        offset,
        immediate,
    };
    let load = |dst, offset| op(0x61, dst, 6, offset, 0);
    // Compares the lower 32 bits. Every jump is one to the last two instructions, which let the lookup go on.
    let unless_equal = |dst, number: u32| op(JUMP_UNLESS_EQUAL, dst, 0, 0, number as i32);
    let ip = u32::from_ne_bytes(address.ip().octets());
    let mut code = vec![
        op(0xbf, 6, 1, 0, 0),
        load(2, FAMILY),
        unless_equal(2, libc::AF_INET as u32),
        load(2, PROTOCOL),
        unless_equal(2, TCP.into()),
        load(2, LOCAL_IP4),
        unless_equal(2, ip),
        load(2, LOCAL_PORT),
        unless_equal(2, address.port().into()),
        op(0x62, 10, 0, -4, 0),
    ];
    code.extend([op(0x18, 1, 1, 0, sockets), op(0, 0, 0, 0, 0)]);
    code.extend([op(0xbf, 2, 10, 0, 0), op(0x07, 2, 0, 0, -4), op(0x85, 0, 0, 0, MAP_LOOKUP_ELEM)]);
    code.push(op(JUMP_IF_EQUAL, 0, 0, 0, 0));
    code.extend([op(0xbf, 8, 0, 0, 0), op(0xbf, 1, 6, 0, 0), op(0xbf, 2, 8, 0, 0), op(0xb7, 3, 0, 0, 0)]);
    code.extend([op(0x85, 0, 0, 0, SK_ASSIGN), op(0xbf, 1, 8, 0, 0)]);
    code.extend([op(0x85, 0, 0, 0, SK_RELEASE), op(0xb7, 0, 0, 0, 1), op(0x95, 0, 0, 0, 0)]);
    let pass = code.len() - 2;
    for (index, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL) {
            instruction.offset = (pass - index - 1) as i16;
        }
    }
    code
}

const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;
// struct bpf_sk_lookup
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_PORT: i16 = 60;

/// Assembled by hand: 35 instructions do not pay for a compiler.
fn instructions(trie: RawFd, sockets: RawFd) -> Vec<Instruction> {
    // On the stack.
    const TRIE_KEY: i16 = -16;
    const SOCKET_KEY: i16 = -20;
    let op = |code: u8, dst: u8, src: u8, offset: i16, immediate: i32| Instruction {
        code,
        registers: dst | (src << 4),
        offset,
        immediate,
    };
    let mov = |dst, src| op(0xbf, dst, src, 0, 0);
    let mov_number = |dst, number| op(0xb7, dst, 0, 0, number);
    let add = |dst, number| op(0x07, dst, 0, 0, number);
    let load = |dst, src, offset| op(0x61, dst, src, offset, 0);
    let store = |dst, offset, src| op(0x63, dst, src, offset, 0);
    let store_half = |dst, offset, src| op(0x6b, dst, src, offset, 0);
    let big_endian_half = |dst| op(0xdc, dst, 0, 0, 16);
    let map = |dst, fd: RawFd| [op(0x18, dst, 1, 0, fd), op(0, 0, 0, 0, 0)];
    let call = |function| op(0x85, 0, 0, 0, function);
    let exit = op(0x95, 0, 0, 0, 0);
    // Jumps to PASS and REFUSE are filled in when it is known where those are.
    const PASS: i16 = 1000;
    const REFUSE: i16 = 1001;
    let unless_equal = |dst, number, to| op(0x55, dst, 0, to, number);
    let if_equal = |dst, number, to| op(0x15, dst, 0, to, number);

    let mut code = vec![mov(6, 1), load(2, 6, FAMILY), unless_equal(2, libc::AF_INET, PASS)];
    code.extend([load(2, 6, LOCAL_IP4), store(10, TRIE_KEY + 4, 2)]);
    code.extend([load(7, 6, PROTOCOL), mov(3, 7), big_endian_half(3), store_half(10, TRIE_KEY + 8, 3)]);
    code.extend([load(4, 6, LOCAL_PORT), big_endian_half(4), store_half(10, TRIE_KEY + 10, 4)]);
    code.extend([mov_number(5, KEY_BITS as i32), store(10, TRIE_KEY, 5)]);
    code.extend(map(1, trie));
    code.extend([mov(2, 10), add(2, TRIE_KEY.into()), call(MAP_LOOKUP_ELEM)]);
    code.extend([if_equal(0, 0, PASS), load(1, 0, 0), if_equal(1, 0, REFUSE)]);
    code.extend([
        mov_number(1, TCP_INDEX as i32),
        if_equal(7, TCP.into(), 1),
        mov_number(1, UDP_INDEX as i32),
    ]);
    code.push(store(10, SOCKET_KEY, 1));
    code.extend(map(1, sockets));
    code.extend([mov(2, 10), add(2, SOCKET_KEY.into()), call(MAP_LOOKUP_ELEM), if_equal(0, 0, REFUSE)]);
    code.extend([mov(8, 0), mov(1, 6), mov(2, 8), mov_number(3, 0), call(SK_ASSIGN), mov(9, 0)]);
    code.extend([mov(1, 8), call(SK_RELEASE), unless_equal(9, 0, REFUSE)]);
    let pass = code.len();
    code.extend([mov_number(0, 1), exit]);
    let refuse = code.len();
    code.extend([mov_number(0, 0), exit]);
    for (index, instruction) in code.iter_mut().enumerate() {
        let target = match instruction.offset {
            PASS => pass,
            REFUSE => refuse,
            _ => continue,
        };
        instruction.offset = (target - index - 1) as i16;
    }
    code
}

#[repr(C)]
struct MapAttribute {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
    flags: u32,
}

#[repr(C)]
struct ElementAttribute {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramAttribute {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkAttribute {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

fn create_map(kind: u32, key_bytes: u32, entries_max: u32, flags: u32) -> io::Result<OwnedFd> {
    bpf(BPF_MAP_CREATE, &MapAttribute { kind, key_bytes, value_bytes: 4, entries_max, flags }).map(descriptor)
}

fn update(map: &OwnedFd, key: &[u8], value: u32) -> io::Result<()> {
    let value = value.to_ne_bytes();
    let attribute = ElementAttribute {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attribute).map(drop)
}

fn delete(map: &OwnedFd, key: &[u8]) -> io::Result<()> {
    let attribute = ElementAttribute {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: key.as_ptr() as u64,
        value: 0,
        flags: 0,
    };
    bpf(BPF_MAP_DELETE_ELEM, &attribute).map(drop)
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let mut log = vec![0u8; VERIFIER_LOG_BYTES];
    let mut name = [0; 16];
    name[..9].copy_from_slice(b"ferrogate");
    let attribute = ProgramAttribute {
        kind: BPF_PROG_TYPE_SK_LOOKUP,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 1,
        log_bytes: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        expected_attach_type: BPF_SK_LOOKUP,
    };
    bpf(BPF_PROG_LOAD, &attribute).map(descriptor).map_err(|error| {
        let said =
            String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        if said.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}: {said}")) }
    })
}

fn bpf<T>(command: libc::c_int, attribute: &T) -> io::Result<RawFd> {
    // SAFETY: the attribute is one of the structures above, laid out as the command wants it, with pointers to
    // memory that outlives the call; its true size is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn descriptor(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just made it for us; BPF descriptors are close-on-exec.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_cover_exactly_the_range() {
        for (first, last) in [(0, 65535), (80, 80), (1000, 2000), (1, 65534), (65535, 65535), (0, 0)] {
            let covered: Vec<u16> = prefixes(first, last)
                .into_iter()
                .flat_map(|(port, bits)| port..=port | ((1u32 << (16 - bits)) - 1) as u16)
                .collect();
            assert_eq!(covered, (first..=last).collect::<Vec<_>>());
            assert!(prefixes(first, last).len() <= 30);
        }
    }

    #[test]
    fn an_address_is_refused_where_it_is_not_open() {
        let address = Ipv4Addr::new(127, 64, 0, 9);
        let entries = entries(&BTreeMap::from([(address, HostPorts::from([(TCP, 80, 80)]))]));
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[&Key { prefix: 32, address, protocol: 0, port: 0 }], 0);
        assert_eq!(entries[&Key { prefix: 64, address, protocol: 6, port: 80 }], 1);
        assert_eq!(
            Key { prefix: 64, address, protocol: 6, port: 80 }.bytes()[4..],
            [127, 64, 0, 9, 0, 6, 0, 80]
        );
    }
}
