//! The functions of `wit/platform`, one method each. When the host calls which, and what each error means, is written
//! there.

use wasmtime::{Store, component::Instance};

use super::abi::{
    BlockPage, BlockSet, CaptureEnd, CaptureOutcome, CaptureRequest, CaptureStep, CapturedDiskPage, Description,
    DiskRequest, DiskStep, Done, FindingPage, Kind, Machine, MachineManner, MachinePage, MachineRequest, MachineStep,
    Owned, OwnedPage, PowerManner, PowerStep, Readiness, WrittenBlocks,
};
use crate::{BoundComponent, CallError, TransportGrant, bound::GuestFuture, state::CallState};

/// Makes one method for each function: the interface's field, its name, then the functions with their arguments, how
/// each is handed over, and what the caller gets.
macro_rules! calls {
    ($($interface:ident $name:literal {$(
        $(#[$doc:meta])*
        $method:ident = $function:literal $call:ident ($($argument:ident: $type:ty => $handed:expr),*) -> $result:ty;
    )*})*) => {
        impl BoundComponent {$($(
            $(#[$doc])*
            ///
            /// # Errors
            /// Every way in which a call can end but well; see [`CallError`].
            pub async fn $method(&self, $($argument: $type),*) -> Result<$result, CallError> {
                const FUNCTION: &str = concat!($name, ".", $function);
                let Some(indices) = self.bound.component.exports.$interface.clone() else {
                    return Err(self.not_exported(FUNCTION, $name));
                };
                self.call(FUNCTION, move |store: &mut Store<CallState>, instance: &Instance| -> GuestFuture<'_, _> {
                    Box::pin(async move {
                        let guest = indices.load(&mut *store, instance)?;
                        guest.$call(store, $($handed),*).await
                    })
                })
                .await
            }
        )*)*}
    };
}

calls! {
    inventory "inventory" {
        /// What the component is.
        describe = "describe" call_describe () -> Description;
        /// One page of the machines of this site.
        list_machines = "list-machines" call_list_machines (cursor: Option<String> => cursor.as_deref()) -> MachinePage;
    }
    source "source" {
        /// Freezes a view of the machines' disks at one instant.
        begin_capture = "begin-capture" call_begin_capture (request: CaptureRequest => &request) -> CaptureStep;
        /// Goes on with a pending capture.
        continue_capture = "continue-capture" call_continue_capture
            (request: CaptureRequest => &request, state: Vec<u8> => &state) -> CaptureStep;
        /// One page of the disks of a capture that is ready.
        list_disks = "list-disks" call_list_disks
            (state: Vec<u8> => &state, cursor: Option<String> => cursor.as_deref()) -> CapturedDiskPage;
        /// A transport to the frozen view of a disk.
        open_captured_disk = "open-disk" call_open_disk
            (state: Vec<u8> => &state, machine: String => &machine, disk: String => &disk) -> TransportGrant;
        /// Whether the capture still holds its instant.
        verify_capture = "verify-capture" call_verify_capture (state: Vec<u8> => &state) -> CaptureEnd;
        /// Releases everything but the change tracking that the outcome asks for.
        end_capture = "end-capture" call_end_capture
            (state: Vec<u8> => &state, outcome: CaptureOutcome => outcome) -> CaptureEnd;
    }
    source_blocks "source-blocks" {
        /// One page of the blocks of a captured disk, from an offset on.
        list_blocks = "list-blocks" call_list_blocks
            (state: Vec<u8> => &state, machine: String => &machine, disk: String => &disk, set: BlockSet => set,
             offset: u64 => offset) -> BlockPage;
    }
    power "power" {
        /// Begins to turn a protected machine off.
        stop_protected_machine = "stop-machine" call_stop_machine
            (machine: String => &machine, manner: PowerManner => manner) -> PowerStep;
        /// Goes on with a pending stop.
        continue_stop = "continue-stop" call_continue_stop
            (machine: String => &machine, manner: PowerManner => manner, state: Vec<u8> => &state) -> PowerStep;
    }
    target_disks "target-disks" {
        /// Makes a disk that reads as zeros.
        begin_disk = "begin-disk" call_begin_disk (request: DiskRequest => &request) -> DiskStep;
        /// A transport that can write to a disk that is ready and not sealed.
        open_target_disk = "open-disk" call_open_disk (state: Vec<u8> => &state) -> TransportGrant;
        /// Ends the making of a disk.
        seal_disk = "seal-disk" call_seal_disk
            (state: Vec<u8> => &state, written: Option<WrittenBlocks> => written.as_ref()) -> DiskStep;
        /// Goes on with a pending `begin_disk` or `seal_disk`.
        continue_disk = "continue-disk" call_continue_disk (state: Vec<u8> => &state) -> DiskStep;
        /// Removes the disk.
        discard_disk = "discard-disk" call_discard_disk (state: Vec<u8> => &state) -> Done;
    }
    sealed_disks "sealed-disks" {
        /// Makes a disk that reads as another did when that was sealed.
        begin_disk_from = "begin-disk-from" call_begin_disk_from
            (request: DiskRequest => &request, base: Vec<u8> => &base) -> DiskStep;
    }
    target_machines "target-machines" {
        /// One page of what stands in the way of running a machine here.
        check_machine = "check-machine" call_check_machine
            (machine: Machine => &machine, cursor: Option<String> => cursor.as_deref()) -> FindingPage;
        /// Makes a machine of the sealed disks.
        define_machine = "define-machine" call_define_machine (request: MachineRequest => &request) -> MachineStep;
        /// Starts it.
        start_machine = "start-machine" call_start_machine (state: Vec<u8> => &state) -> MachineStep;
        /// Goes on with a pending step of a machine.
        continue_machine = "continue-machine" call_continue_machine (state: Vec<u8> => &state) -> MachineStep;
        /// How far the machine has come.
        check_readiness = "check-readiness" call_check_readiness (state: Vec<u8> => &state) -> Readiness;
        /// Stops it.
        stop_machine = "stop-machine" call_stop_machine
            (state: Vec<u8> => &state, manner: MachineManner => manner) -> MachineStep;
        /// Removes it with its disks.
        remove_machine = "remove-machine" call_remove_machine (state: Vec<u8> => &state) -> Done;
    }
    ownership "ownership" {
        /// One page of everything of a kind that carries the owner tag.
        list_owned = "list-owned" call_list_owned
            (kind: Kind => kind, owner: String => &owner, cursor: Option<String> => cursor.as_deref()) -> OwnedPage;
        /// Removes one of them.
        release_owned = "release-owned" call_release_owned (item: Owned => &item) -> Done;
    }
}
