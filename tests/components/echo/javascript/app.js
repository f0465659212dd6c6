// Sends back every type of `wit/`, in JavaScript.

import { monotonic, sleep } from 'farshore:host/clock@0.1.0-draft.5';
import { write } from 'farshore:host/log@0.1.0-draft.5';
import { report } from 'farshore:host/progress@0.1.0-draft.5';
import { get } from 'farshore:host/settings@0.1.0-draft.5';

const unsupported = () => {
  throw { tag: 'unsupported', val: 'echo' };
};

const withFunctions = (names, make) => Object.fromEntries(names.split(/\s+/).map((name) => [name, make]));

export const echo = withFunctions(
  `echoHostError echoLogLevel echoUpdate echoDocument echoClockInstant echoChunk echoWritten echoTcpAddress
   echoAddress echoExportedDisk echoHttpMethod echoHeader echoHttpRequest echoHttpResponse echoBlockRead
   echoBlockWrite echoBlockDisk echoFile echoEntry echoEntryPage echoRemoval echoSlot echoRepetition echoCompletion
   echoPlatformError echoProperty echoDisk echoNetworkInterface echoFirmware echoPowerState echoMachine echoPending
   echoDone echoDescription echoMachinePage echoConsistency echoTrackedDisk echoCaptureRequest echoInstant
   echoCaptureReport echoCaptureStatus echoCaptureStep echoChanges echoAllocation echoCapturedDisk
   echoCapturedDiskPage echoOutcome echoCaptureEnd echoBlockSet echoBlock echoBlockPage echoPowerManner
   echoPowerStatus echoPowerStep echoDiskRequest echoDiskStatus echoDiskStep echoWrittenBlocks echoFinding
   echoFindingPage echoMachineRequest echoMachineStatus echoMachineStep echoReadinessLevel echoReadiness
   echoMachineManner echoKind echoOwned echoOwnedPage`,
  (value) => value,
);

export const inventory = {
  describe: () => ({ name: 'echo-javascript', version: '0.1.0', settingsSchema: '{}' }),
  listMachines: () => {
    write('info', 'listing');
    report({ doing: 'listing', done: 1n, total: 2n });
    const before = monotonic().nanoseconds;
    const after = sleep(2).nanoseconds;
    const machine = {
      id: 'echo',
      name: get().json,
      cpus: after > before ? 1 : 0,
      memoryBytes: 0n,
      firmware: 'bios',
      power: 'off',
      disks: [],
      networkInterfaces: [],
      properties: [],
    };
    return { machines: [machine], next: undefined };
  },
};

export const source = withFunctions(
  'beginCapture continueCapture listDisks openDisk verifyCapture endCapture',
  unsupported,
);
export const sourceBlocks = withFunctions('listBlocks', unsupported);
export const power = withFunctions('stopMachine continueStop', unsupported);
export const targetDisks = withFunctions('beginDisk openDisk sealDisk continueDisk discardDisk', unsupported);
export const sealedDisks = withFunctions('beginDiskFrom', unsupported);
export const targetMachines = withFunctions(
  'checkMachine defineMachine startMachine continueMachine checkReadiness stopMachine removeMachine',
  unsupported,
);
export const ownership = withFunctions('listOwned releaseOwned', unsupported);
