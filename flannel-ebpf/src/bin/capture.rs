//! The filter of `flannel-agent monitor --pcap`: chooses the packets of the uplink that are copied to its socket, and limits their rate.
//! It is loaded for as long as the subcommand runs, and has nothing to do with the programs that carry packets.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
    use aya_ebpf::macros::{map, socket_filter};
    use aya_ebpf::maps::{Array, PerCpuArray};
    use aya_ebpf::programs::SkBuffContext;
    use flannel_common::capture::{Frame, Rate, Wanted, pods_frame};

    /// [`flannel_common::capture::WANTED`]
    #[map(name = "CAPTURE_WANTED")]
    static WANTED: Array<Wanted> = Array::with_max_entries(1, 0);

    /// [`flannel_common::capture::RATES`]
    #[map(name = "CAPTURE_RATES")]
    static RATES: PerCpuArray<Rate> = PerCpuArray::with_max_entries(1, 0);

    const SECOND_NS: u64 = 1_000_000_000;

    /// A frame that the kernel passes to a packet socket.
    struct Tapped(SkBuffContext);

    impl Frame for Tapped {
        #[inline(always)]
        fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
            // Linux 4.5.
            self.0.load(offset).ok()
        }
    }

    /// Returns how many bytes of a packet are copied: 0 for none.
    #[socket_filter]
    pub(crate) fn capture(ctx: SkBuffContext) -> i64 {
        // Nobody writes it once the filter is attached.
        let Some(wanted) = WANTED.get(0) else { return 0 };
        match pods_frame(&Tapped(ctx), wanted) {
            Some(start) if is_within(wanted.rate) => start as i64 + i64::from(wanted.length),
            _ => 0,
        }
    }

    /// Counts a packet, and returns whether this CPU may copy it.
    #[inline(always)]
    fn is_within(rate: u32) -> bool {
        let Some(counted) = RATES.get_ptr_mut(0) else { return false };
        // SAFETY: a helper call without arguments; it reads the clock.
        let second = unsafe { bpf_ktime_get_ns() } / SECOND_NS;
        // SAFETY: this CPU's slot, aligned as the type is. A filter that interrupts this one may miscount a packet.
        unsafe {
            let (now, copied, left_out) =
                (&raw mut (*counted).second, &raw mut (*counted).copied, &raw mut (*counted).left_out);
            if now.read_volatile() != second {
                now.write_volatile(second);
                copied.write_volatile(0);
            }
            let number = copied.read_volatile();
            if number < u64::from(rate) {
                copied.write_volatile(number + 1);
                return true;
            }
            left_out.write_volatile(left_out.read_volatile() + 1);
        }
        false
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// The kernel allows some helpers only to programs with a GPL-compatible licence.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// On the host this crate is a library only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
