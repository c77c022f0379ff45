/**
 * status: what the running daemon serves, to whom, from which devices, with which workers.
 *
 *     orion-lvm status                      tables for people
 *     orion-lvm status --reportformat json  {"status": …, "numbers": …} as docs/openapi.json describes them, and "attached":
 *                                           the kernel's devices that volumes are attached to
 */
import type { ClientNumbers, DeviceNumbers, GroupNumbers, Numbers, WorkerNumbers } from '../../observe/stats.ts';
import { failures } from '../../observe/stats.ts';
import { type AttachedDevice, isConnected, notedDevices } from '../../daemon/client/attached.ts';
import { plainJson, plainText } from '../../ondisk/plain-text.ts';
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { ask, runningDaemon } from '../running-daemon.ts';
import { snapshotTable } from '../snapshot-table.ts';
import { shortBytes, shortDuration, textTable } from '../text-table.ts';

/** What of `GET /v1/status` is shown. */
interface Status {
  readonly state: string;
  readonly pid: number;
  readonly configFile: string | null;
  readonly listening: readonly string[];
  readonly devices: readonly { readonly path: string; readonly reason?: string }[];
  readonly volumeGroups: readonly { readonly name: string; readonly partial: boolean; readonly reason?: string }[];
  readonly exports: readonly {
    readonly name: string;
    readonly state: string;
    readonly sizeBytes?: number;
    readonly readOnly?: boolean;
    readonly clients: number;
    readonly writers?: readonly string[];
    readonly reason?: string;
    readonly problem?: string;
    readonly note?: string;
  }[];
  readonly warnings: readonly string[];
}

async function run(context: CommandContext): Promise<ExitCode> {
  const client = await runningDaemon(context);
  const status = (await ask(client, '/v1/status')) as Status;
  const numbers = (await ask(client, '/v1/numbers')) as Numbers;
  const attached = await attachedTo(status.listening);
  const { output } = context;
  if (context.options.value('reportformat') === 'json') {
    output.printPlain(`${plainJson({ status, numbers, attached }, 2)}\n`);
    return EXIT.ok;
  }
  const sections = [
    heading(status, numbers),
    groupTable(status, numbers.groups),
    exportTable(status, numbers),
    snapshotTable(numbers.snapshots),
    clientTable(numbers.clients),
    attachedTable(attached),
    deviceTable(status, numbers.devices),
    cacheTable(numbers.devices),
    workerTable(numbers),
    status.warnings.map(plainText),
  ].filter((lines) => lines.length > 0);
  for (const [i, lines] of sections.entries()) {
    if (i > 0) output.printPlain('\n');
    for (const line of lines) output.print(line);
  }
  return EXIT.ok;
}

function heading({ state, pid, configFile, listening }: Status, { version, time, startedAt }: Numbers): string[] {
  return [
    `orion-lvmd ${version}, process ${pid}, ${state} for ${shortDuration(time - startedAt)}`,
    `Configuration: ${configFile ?? 'none, the defaults'}`,
    `NBD: ${listening.join(', ')}`,
  ];
}

function groupTable({ volumeGroups }: Status, groups: readonly GroupNumbers[]): string[] {
  if (volumeGroups.length === 0) return [];
  const rows = volumeGroups.map(({ name, reason }) => {
    const group = groups.find((candidate) => candidate.name === name);
    if (group === undefined) return [name, '', '', '', '', reason ?? 'unknown'];
    const { extentBytes, extents, freeExtents, physicalVolumes, seqno } = group;
    const size = [shortBytes(extents * extentBytes), shortBytes(freeExtents * extentBytes)];
    return [name, String(physicalVolumes), ...size, String(seqno), healthOf(group)];
  });
  return textTable(
    [
      { heading: 'VG' },
      { heading: '#PV', right: true },
      { heading: 'Size', right: true },
      { heading: 'Free', right: true },
      { heading: 'Seqno', right: true },
      { heading: 'Health' },
    ],
    rows,
  );
}

function healthOf({ missingPhysicalVolumes, staleCopies }: GroupNumbers): string {
  const parts = [
    ...(missingPhysicalVolumes > 0 ? [`${missingPhysicalVolumes} PVs missing`] : []),
    ...(staleCopies > 0 ? [`${staleCopies} stale copies of the metadata`] : []),
  ];
  return parts.length === 0 ? 'ok' : parts.join(', ');
}

function exportTable({ exports }: Status, { volumes }: Numbers): string[] {
  if (exports.length === 0) return [];
  const errorsOf = new Map(volumes.map(({ name, io }) => [name, failures(io)]));
  return textTable(
    [
      { heading: 'Export' },
      { heading: 'State' },
      { heading: 'Size', right: true },
      { heading: 'Access' },
      { heading: 'Clients', right: true },
      { heading: 'Errors', right: true },
      { heading: 'Note' },
    ],
    exports.map(({ name, state, sizeBytes, readOnly, clients, writers = [], reason, problem, note }) => {
      const access = readOnly === undefined ? '' : readOnly ? 'ro' : 'rw';
      const size = sizeBytes === undefined ? '' : shortBytes(sizeBytes);
      return [
        name,
        state,
        size,
        access,
        String(clients),
        String(errorsOf.get(name) ?? 0),
        reason ?? problem ?? note ?? writersText(writers),
      ];
    }),
  );
}

function writersText(writers: readonly string[]): string {
  return writers.length === 0 ? '' : `written by ${writers.join('; ')}`;
}

interface Attached extends AttachedDevice {
  /** False: the connection was lost; `orion-lvm attach` brings it back. */
  readonly connected: boolean;
}

async function attachedTo(servers: readonly string[]): Promise<readonly Attached[]> {
  const noted = (await notedDevices()).filter(({ server }) => servers.includes(server));
  return Promise.all(noted.map(async (each) => ({ ...each, connected: await isConnected(each.kernelName) })));
}

function attachedTable(attached: readonly Attached[]): string[] {
  if (attached.length === 0) return [];
  return textTable(
    [{ heading: 'Attached' }, { heading: 'Export' }, { heading: 'State' }, { heading: 'Server' }],
    attached.map(({ kernelName, exportName, connected, server }) => {
      return [`/dev/${kernelName}`, exportName, connected ? 'connected' : 'lost', server];
    }),
  );
}

function clientTable(clients: readonly ClientNumbers[]): string[] {
  if (clients.length === 0) return [];
  return textTable(
    [
      { heading: 'Client' },
      { heading: 'Who' },
      { heading: 'Export' },
      { heading: 'Access' },
      { heading: 'Worker', right: true },
      { heading: 'In flight', right: true },
      { heading: 'Read', right: true },
      { heading: 'Written', right: true },
      { heading: 'Errors', right: true },
    ],
    clients.map(({ peer, identity, volume, readOnly, worker, inFlight, readBytes, writtenBytes, errors }) => {
      const counts = [
        String(worker),
        String(inFlight),
        shortBytes(readBytes),
        shortBytes(writtenBytes),
        String(errors),
      ];
      return [peer, identity, volume, readOnly ? 'ro' : 'rw', ...counts];
    }),
  );
}

function deviceTable({ devices }: Status, numbers: readonly DeviceNumbers[]): string[] {
  if (numbers.length === 0) return [];
  const reasons = new Map(devices.map(({ path, reason }) => [path, reason]));
  return textTable(
    [
      { heading: 'Device' },
      { heading: 'State' },
      { heading: 'Size', right: true },
      { heading: 'In flight', right: true },
      { heading: 'Errors', right: true },
      { heading: 'Note' },
    ],
    numbers.map(({ path, up, sizeBytes, io }) => {
      const counts = [shortBytes(sizeBytes), String(io?.inFlight ?? 0), String(failures(io))];
      return [path, up ? 'open' : 'failed', ...counts, reasons.get(path) ?? ''];
    }),
  );
}

function processRow(name: string, worker: Numbers['supervisor'] & Partial<WorkerNumbers>): string[] {
  return [
    name,
    String(worker.pid),
    `${((worker.cpuUserMs + worker.cpuSystemMs) / 1000).toFixed(1)}s`,
    shortBytes(worker.residentBytes),
    worker.volumes === undefined ? '' : String(worker.volumes),
    worker.connections === undefined ? '' : String(worker.connections),
    worker.restarts === undefined ? '' : String(worker.restarts),
  ];
}

function cacheTable(devices: readonly DeviceNumbers[]): string[] {
  const cached = devices.flatMap(({ path, cache }) => (cache === undefined ? [] : [{ path, cache }]));
  if (cached.length === 0) return [];
  return textTable(
    [
      { heading: 'Cached device' },
      { heading: 'Cached', right: true },
      { heading: 'Dirty', right: true },
      { heading: 'Hits', right: true },
      { heading: 'Evictions', right: true },
      { heading: 'Write-back errors', right: true },
    ],
    cached.map(({ path, cache: { cachedBytes, dirtyBytes, hits, misses, evictions, writeBackErrors } }) => {
      const rate = hits + misses === 0 ? '' : `${Math.floor((100 * hits) / (hits + misses))} %`;
      return [path, shortBytes(cachedBytes), shortBytes(dirtyBytes), rate, String(evictions), String(writeBackErrors)];
    }),
  );
}

function workerTable({ supervisor, workers }: Numbers): string[] {
  return textTable(
    [
      { heading: 'Process' },
      { heading: 'PID', right: true },
      { heading: 'CPU', right: true },
      { heading: 'Memory', right: true },
      { heading: 'Volumes', right: true },
      { heading: 'Clients', right: true },
      { heading: 'Restarts', right: true },
    ],
    [processRow('supervisor', supervisor), ...workers.map((worker) => processRow(`worker ${worker.index}`, worker))],
  );
}

export const command: Command = {
  summary: 'Show what the running daemon serves',
  argumentsUsage: '',
  options: [
    {
      long: 'reportformat',
      argument: 'basic|json',
      check: (value) => value === 'basic' || value === 'json',
      description: 'Tables (the default), or everything as JSON.',
    },
  ],
  run,
};
