//! What the resolver gives up once it has its lock, its socket and its watch: the user root, all capabilities, the right to gain any, and
//! all system calls but those that it needs. It reads what strangers send.

use std::io;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::place::NOBODY;

/// Questions that were passed on, connections, and a few for itself.
const DESCRIPTORS: u64 = 4096;

/// Gives everything up. The process must have one thread only: these calls are the thread's.
pub fn drop_all() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit })?;
    for capability in CapabilitySet::all().iter() {
        // One that the kernel doesn't know, or that can't be taken away because the right to do so is missing, is gone below.
        let _ = remove_capability_from_bounding_set(capability);
    }
    clear_ambient_capability_set()?;
    become_nobody()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    filter_calls()
}

/// In a user namespace that doesn't map nobody, it stays that namespace's root, who is nobody on the node.
fn become_nobody() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    match set_thread_groups(&[]).and_then(|()| set_thread_res_gid(group, group, group)) {
        Err(Errno::INVAL) => return Ok(()),
        outcome => outcome?,
    }
    Ok(set_thread_res_uid(user, user, user)?)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter_calls() -> io::Result<()> {
    filter::install().map_err(io::Error::other)
}

/// The filter is written for these architectures; everything else holds on all.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn filter_calls() -> io::Result<()> {
    Ok(())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod filter {
    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch, apply_filter,
    };

    /// By what each is for: descriptors and files, sockets, waiting, memory, time and random numbers, signals, the end.
    const ALLOWED: [i64; 58] = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_getdents64,
        libc::SYS_fcntl,
        libc::SYS_flock,
        libc::SYS_inotify_add_watch,
        libc::SYS_inotify_rm_watch,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept4,
        libc::SYS_connect,
        libc::SYS_setsockopt,
        libc::SYS_getsockopt,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_shutdown,
        libc::SYS_ioctl,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_ppoll,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_futex,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_clock_gettime,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_getcwd,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_readlinkat,
        libc::SYS_epoll_pwait2,
        libc::SYS_faccessat,
    ];
    /// What only x86-64 has, in the place of the newer ones.
    #[cfg(target_arch = "x86_64")]
    const OLDER: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_readlink, libc::SYS_stat, libc::SYS_lstat];
    #[cfg(target_arch = "aarch64")]
    const OLDER: &[i64] = &[];
    /// `AF_INET`, `AF_INET6`.
    const FAMILIES: [u64; 2] = [2, 10];
    /// `O_ACCMODE`, `O_RDONLY`, and `O_CREAT`.
    const ACCESS: u64 = 0o3 | 0o100;
    /// `ENOSYS`: as a kernel without the call, so that libraries take another way.
    const REFUSAL: u32 = 38;

    /// Lets through what the resolver needs: reading files, sockets of IP, and waiting.
    pub fn install() -> Result<(), Error> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            ALLOWED.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
        let is = |argument, operator, value| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
                .and_then(|is| SeccompRule::new(vec![is]))
        };
        let families = FAMILIES.map(|family| is(0, SeccompCmpOp::Eq, family));
        rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>().map_err(Error::Backend)?);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, vec![is(1, SeccompCmpOp::MaskedEq(ACCESS), 0).map_err(Error::Backend)?]);
        rules.insert(libc::SYS_openat, vec![is(2, SeccompCmpOp::MaskedEq(ACCESS), 0).map_err(Error::Backend)?]);
        let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(Error::Backend)?;
        let filter = SeccompFilter::new(rules, SeccompAction::Errno(REFUSAL), SeccompAction::Allow, arch);
        let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(Error::Backend)?;
        apply_filter(&program)
    }
}
