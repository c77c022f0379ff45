/**
 * The volumes that backup and restore work on: as the running daemon serves them, over NBD; where none does, opened by the command itself;
 * or what an NBD URI names, wherever that is.
 *
 * Invariants
 *  - A volume that the daemon serves is used through it, so that clients may go on.
 *  - `close` settles when everything written is durable, or rejects.
 */
import { CONTEXTS, NbdClient, type NbdClientTarget } from '../../daemon/client/nbd-client.ts';
import type { NbdPlace } from '../../daemon/client/nbd-uri.ts';
import { findControlSocket } from '../../daemon/client/socket-path.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { openDirectly, type Stretch } from '../../lvm/direct-volumes.ts';
import { changeContext } from '../change.ts';
import type { CommandContext } from '../command.ts';
import { refuseAttached } from '../lv/attached.ts';
import { CommandError, EXIT } from '../messages.ts';
import { ask, runningDaemon } from '../running-daemon.ts';

const CONNECT_MS = 10_000;
/** What one question about a range may cover: an answer's lengths have 32 bits. */
const MAX_QUESTION_BYTES = 2 ** 31;
const ZERO_FLAG = 2;
/** In what our daemon says of an export: VG-uuid/LV-uuid. */
const VOLUME_ID = / id ([\w-]{38}\/[\w-]{38})(?:,|$)/;

export interface WorkVolume {
  /** "VG/LV" */
  readonly name: string;
  /** "VG-uuid/LV-uuid" */
  readonly id: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Connections of others, as far as they are known: of a volume elsewhere they are not. */
  readonly clients: number;
  /** The server, where it is not this host's own. */
  readonly place?: string | undefined;
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, bytes: Buffer): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  /** What of a range is known to be zeroes; or of the beginning of it. */
  zeroes(offset: number, length: number): Promise<readonly Stretch[]>;
  /** What of a range may differ from the base; or of the beginning of it. */
  changes(offset: number, length: number): Promise<readonly Stretch[]>;
}

export interface Wanted {
  readonly volume: VolumeName | NbdPlace;
  /** A snapshot of the same VG, to compare with; null: none. */
  readonly baseName: string | null;
  readonly writable: boolean;
  /** Nobody else may have it meanwhile, where this host's daemon serves it, or its kernel has it attached while no daemon does. */
  readonly alone: boolean;
  /** Aborted: nothing more is waited for. */
  readonly signal: AbortSignal;
}

export interface VolumeName {
  readonly vgName: string;
  readonly lvName: string;
}

export interface WorkSet {
  readonly volume: WorkVolume;
  readonly base: WorkVolume | null;
}

/** What this host's daemon serves by that name now; null: nothing, or the volume is elsewhere. Throws CommandError. */
export async function servedNow(context: CommandContext, volume: VolumeName | NbdPlace): Promise<ServedExport | null> {
  if ('server' in volume) return null;
  const served = await servedBy(context, volume);
  return served?.exports.get(`${volume.vgName}/${volume.lvName}`) ?? null;
}

/**
 * Runs `body` on the volumes. Throws CommandError where they can't be had. `stillAlone` throws one when others may have got at a volume
 * that was wanted alone.
 */
export async function withVolumes<Result>(
  around: CommandContext,
  wanted: Wanted,
  body: (set: WorkSet, stillAlone: () => void) => Promise<Result>,
): Promise<Result> {
  const { volume, baseName, signal } = wanted;
  const context = { ...around, signal };
  const onSilence = (message: string): void => context.output.error(`WARNING: ${message}. Interrupt to give it up.`);
  const connect: Connect = (target) => NbdClient.connect({ ...target, timeoutMs: CONNECT_MS, signal, onSilence });
  if ('server' in volume) return elsewhere(connect, volume, baseName, (set) => body(set, nobodyToFear));
  const served = await servedBy(context, volume);
  if (served === null) return directly(context, volume, wanted, (set) => body(set, nobodyToFear));
  return hereOverNbd(connect, served, volume, baseName, (set) =>
    wanted.alone ? alone(context, set.volume, (stillAlone) => body(set, stillAlone)) : body(set, nobodyToFear),
  );
}

/** Runs `body` while the daemon lets nobody else connect to the export, to which this command has connected. */
async function alone<Result>(
  context: CommandContext,
  { name, id }: Pick<WorkVolume, 'name' | 'id'>,
  body: (stillAlone: () => void) => Promise<Result>,
): Promise<Result> {
  const { ControlClientError } = await import('../../daemon/client/control-client.ts');
  const client = await runningDaemon(context);
  const lost: string[] = [];
  const told = (error: unknown): string => {
    if (!(error instanceof ControlClientError)) throw error;
    return error.message;
  };
  const refused = (reason: string): CommandError => failed(`Cannot have logical volume ${name} alone: ${reason}.`);
  const hold = await client.stream<{ readonly id: string }>('POST', `/v1/holds/${name}`, {}).catch((error: unknown) => {
    throw refused(told(error));
  });
  const heard = Promise.withResolvers<string | null>();
  const watched = (async (): Promise<void> => {
    try {
      for await (const held of hold.events) heard.resolve(held.id.replace(' ', '/'));
      lost.push('it has ended the hold');
    } catch (error) {
      lost.push(told(error));
    } finally {
      heard.resolve(null);
    }
  })();
  const stillAlone = (): void => {
    const [reason] = lost;
    if (reason !== undefined) throw failed(`Others may have written to logical volume ${name} meanwhile: ${reason}.`);
  };
  try {
    const held = await heard.promise;
    if (held !== null && held !== id) throw refused('another one has this name now');
    stillAlone();
    return await body(stillAlone);
  } finally {
    hold.close();
    await watched;
  }
}

/** Of volumes from which nobody else is kept away, or which nobody else can have. */
const nobodyToFear = (): void => undefined;

type Connect = (target: Omit<NbdClientTarget, 'timeoutMs'>) => Promise<NbdClient>;

/** The parts of `GET /v1/status` that matter here. */
interface Status {
  readonly listening: readonly string[];
  readonly exports: readonly ServedExport[];
}

export interface ServedExport {
  readonly name: string;
  /** "VG-uuid/LV-uuid" */
  readonly id: string;
  readonly state: string;
  readonly clients?: number;
}

interface Served {
  readonly server: string;
  readonly exports: ReadonlyMap<string, ServedExport>;
}

/** Null: no daemon runs, or none that has the volume. */
async function servedBy(context: CommandContext, { vgName, lvName }: VolumeName): Promise<Served | null> {
  const { env, cwd, uid, toml } = context;
  if (findControlSocket({ env, cwd, uid, config: toml?.config ?? null }) === null) return null;
  const status = (await ask(await runningDaemon(context), '/v1/status')) as Status;
  const active = status.exports.filter(({ state }) => state === 'active');
  const exports = new Map(active.map((each) => [each.name, { ...each, id: each.id.replace(' ', '/') }]));
  if (!exports.has(`${vgName}/${lvName}`)) return null;
  // Over TLS it would have to be told what to show and what to expect; nobody here reaches it over vsock.
  const open = status.listening.filter((address) => !/^vsock:|\?tls=required$/.test(address));
  const server = open.find((address) => address.startsWith('unix:')) ?? open[0];
  if (server === undefined) {
    throw failed(
      `The daemon takes NBD clients over TLS only: name the volume by its URI, nbds://HOST/${vgName}/${lvName} with ?tls-certificates=DIR or ?tls-psk-file=FILE.`,
    );
  }
  return { server: server.replace(/\?tls=.*$/, ''), exports };
}

type Open = (exportName: string, contexts: readonly string[]) => Promise<ServedVolume>;

function hereOverNbd<Result>(
  connect: Connect,
  { server, exports }: Served,
  { vgName, lvName }: VolumeName,
  baseName: string | null,
  body: (set: WorkSet) => Promise<Result>,
): Promise<Result> {
  const open: Open = async (exportName, contexts) => {
    const found = exports.get(exportName);
    if (found === undefined) throw failed(`The daemon does not serve logical volume ${exportName}.`);
    const client = await connect({ server, exportName, contexts });
    return new ServedVolume(found, client, contexts);
  };
  return overNbd(open, `${vgName}/${lvName}`, baseName, body);
}

function elsewhere<Result>(
  connect: Connect,
  { server, exportName: asked, tls }: NbdPlace,
  baseName: string | null,
  body: (set: WorkSet) => Promise<Result>,
): Promise<Result> {
  const open: Open = async (exportName, contexts) => {
    const client = await connect({ server, exportName, contexts, tls });
    // What another server says has no ids of ours; then it is the place that is known again.
    const id = VOLUME_ID.exec(client.description)?.[1] ?? `${server} ${client.exportName}`;
    return new ServedVolume({ name: client.exportName, id, place: server }, client, contexts);
  };
  return overNbd(open, asked, baseName, body);
}

async function overNbd<Result>(
  open: Open,
  exportName: string,
  baseName: string | null,
  body: (set: WorkSet) => Promise<Result>,
): Promise<Result> {
  const changed = baseName === null ? [] : [`${CONTEXTS.changed}${baseName}`];
  const volume = await open(exportName, [CONTEXTS.allocation, ...changed]);
  try {
    const { name } = volume;
    const vgName = name.slice(0, Math.max(0, name.lastIndexOf('/')));
    if (baseName !== null && !volume.knowsChanges) throw noBase(vgName, name, baseName);
    const base = baseName === null ? null : await open(`${vgName}/${baseName}`, []);
    try {
      return await body({ volume, base });
    } finally {
      await base?.close();
    }
  } finally {
    await volume.close();
  }
}

class ServedVolume implements WorkVolume {
  readonly name: string;
  readonly id: string;
  readonly clients: number;
  readonly place: string | undefined;
  readonly #client: NbdClient;
  readonly #contexts: readonly string[];

  constructor(
    { name, id, clients = 0, place }: Pick<ServedExport, 'name' | 'id' | 'clients'> & { readonly place?: string },
    client: NbdClient,
    contexts: readonly string[],
  ) {
    this.name = name;
    this.id = id;
    this.clients = clients;
    this.place = place;
    this.#client = client;
    this.#contexts = contexts;
  }

  get sizeBytes(): number {
    return this.#client.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#client.readOnly;
  }

  get knowsChanges(): boolean {
    const [, changed] = this.#contexts;
    return changed !== undefined && this.#client.contexts.has(changed);
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#client.read(offset, length);
  }

  write(offset: number, bytes: Buffer): Promise<void> {
    return this.#client.write(offset, bytes);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#client.writeZeroes(offset, length);
  }

  flush(): Promise<void> {
    return this.#client.flush();
  }

  zeroes(offset: number, length: number): Promise<readonly Stretch[]> {
    return this.#status(this.#contexts[0], offset, length, ZERO_FLAG);
  }

  changes(offset: number, length: number): Promise<readonly Stretch[]> {
    return this.#status(this.#contexts[1], offset, length, 1);
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  async #status(context: string | undefined, offset: number, length: number, bit: number): Promise<readonly Stretch[]> {
    // A server without it: nothing is known.
    if (context === undefined || !this.#client.contexts.has(context)) return [{ length, is: false }];
    const extents = await this.#client.status(context, offset, Math.min(length, MAX_QUESTION_BYTES));
    return clipped(
      extents.map((extent) => ({ length: extent.length, is: (extent.flags & bit) !== 0 })),
      length,
    );
  }
}

/** Without what a server told beyond the question. */
function clipped(stretches: readonly Stretch[], length: number): readonly Stretch[] {
  const inside: Stretch[] = [];
  let left = length;
  for (const stretch of stretches) {
    const taken = Math.min(stretch.length, left);
    if (taken > 0) inside.push({ ...stretch, length: taken });
    left -= taken;
  }
  return inside;
}

async function directly<Result>(
  context: CommandContext,
  { vgName, lvName }: VolumeName,
  { baseName, writable, alone: refuseOthers }: Wanted,
  body: (set: WorkSet) => Promise<Result>,
): Promise<Result> {
  const change = await changeContext(context);
  const mode = writable ? 'write' : 'read';
  return withChanges(change, { vgs: [{ name: vgName, mode }] }, async (changes: Changes) => {
    const group = await changes.volumeGroup({ vgName, mode });
    const opened = await openDirectly(group, lvName, { host: change.host, readOnly: !writable });
    let result: Result;
    try {
      const { id, name } = opened.own;
      if (refuseOthers) await refuseAttached(new Map([[id.replace('/', ' '), name]]));
      const base = baseName === null ? undefined : opened.volumes.get(baseName);
      if (baseName !== null && (base === undefined || baseName === lvName))
        throw noBase(vgName, `${vgName}/${lvName}`, baseName);
      opened.own.compareWith(base ?? null);
      result = await body({ volume: opened.own, base: base ?? null });
    } catch (error) {
      // What went wrong first is what counts; the rest is told too.
      const [closed] = await Promise.allSettled([opened.close()]);
      if (closed.status === 'rejected') for (const line of linesOf(closed.reason)) change.err(line);
      throw error;
    }
    await opened.close();
    return result;
  });
}

function linesOf(error: unknown): readonly string[] {
  return (error instanceof Error ? error.message : String(error)).split('\n');
}

function noBase(vgName: string, name: string, baseName: string): CommandError {
  return failed(`${vgName}/${baseName} is no snapshot with which ${name} can be compared.`);
}

function failed(message: string): CommandError {
  return new CommandError(EXIT.failed, [message]);
}
