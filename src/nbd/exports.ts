/**
 * What this room needs to know of an export, who tells it (the daemon implements `ExportDirectory`), and the facts about an
 * export that a client is shown.
 *
 * Invariants
 *  - An export's name is `VG/LV`: UTF-8 without NUL, at most 4096 bytes, never empty (the empty name asks for the default
 *    export, which the directory may answer or not).
 *  - `ExportInfo` is a snapshot and plain data: INFO and the GO after it show the same one, and it can travel to another
 *    process with the socket. What a command may touch is decided by the volume's size at that time, not by the snapshot.
 *  - What a client is shown depends on who it is: each one has its own view of the directory.
 */
import assert from 'node:assert/strict';
import type { BlockDevice, StatusSource } from '../dm/io.ts';
import { MAX_PAYLOAD_BYTES, MAX_STRING_BYTES, TransmissionFlag } from './constants.ts';
import { type Features, PLAIN, type Terms } from './features.ts';

/** What the transmission phase needs of an export. */
export interface NbdExport {
  readonly name: string;
  readonly readOnly: boolean;
  /** Takes any byte range inside its size; one flush covers the writes of every connection. */
  readonly volume: BlockDevice;
  readonly canTrim: boolean;
  /** Who tells what BLOCK_STATUS asks in a meta context that the export offered; null: the context is gone. */
  statusSource(context: string): StatusSource | null;
}

/** What the handshake needs of an export; plain data. */
export interface ListedExport {
  readonly name: string;
  /** One line for people. */
  readonly description: string;
  readonly readOnly: boolean;
  /** Bytes. */
  readonly sizeBytes: number;
  readonly canTrim: boolean;
  /** Bytes; a power of two up to 65,536 that offsets and lengths must be multiples of. Default 1. */
  readonly minimumBlockSize?: number;
  /** Bytes; a power of two from 512 to the largest payload: 4096, or the natural chunk. */
  readonly preferredBlockSize: number;
  /** Bytes of one READ or WRITE. Default, and at most, MAX_PAYLOAD_BYTES. */
  readonly maximumBlockSize?: number;
  /** Names of the meta contexts that it offers, in the order in which they are told. */
  readonly contexts: readonly string[];
}

/** What is known of a client from TLS. */
export interface TlsPeer {
  /** Of its certificate, which was verified: the distinguished name as RFC 4514 writes it. Null: it showed none, or none was asked for. */
  readonly subject: string | null;
  /** The name of its pre-shared key; null: it used none. */
  readonly pskName: string | null;
  /** "TLSv1.3". */
  readonly protocol: string;
  readonly cipher: string;
}

/** Who is at the other end of a connection. */
export type ClientIdentity = ClientAddress & { /** Absent: it came in plain text. */ readonly tls?: TlsPeer };

export type ClientAddress =
  | {
      readonly kind: 'unix';
      readonly uid: number;
      readonly gid: number;
      readonly pid: number;
      /** Supplementary ones. */
      readonly groups: readonly number[];
    }
  | { readonly kind: 'tcp'; readonly address: string; readonly port: number }
  | { readonly kind: 'vsock'; readonly cid: number; readonly port: number }
  /** The system didn't say. */
  | { readonly kind: 'unknown' };

/** Why an export can't be had. */
export interface ExportRefusal {
  /** `tls`: over TLS it might be had. */
  readonly kind: 'unknown' | 'policy' | 'tls';
  /** The text of the error that the client sees. */
  readonly text: string;
}

/** The exports as one client may see them. */
export interface ExportView {
  /** What LIST shows. */
  list(): readonly ListedExport[];
  /** The export of that name, or of the default export for ''; null when there is none that the client can have. */
  find(name: string): ListedExport | null;
  /** Why `find` gave null. */
  explain(name: string): ExportRefusal;
  /** Why a client that was shown the export of that (real) name can't be taken now; null: it can. Absent: it always can. */
  admit?(name: string): ExportRefusal | null;
}

export interface ExportDirectory {
  viewFor(client: ClientIdentity): ExportView;
}

/** What INFO and GO tell about an export. */
export interface ExportInfo {
  readonly name: string;
  readonly description: string;
  /** Bytes. */
  readonly sizeBytes: number;
  /** Bits of TransmissionFlag. */
  readonly flags: number;
  /** Bytes. */
  readonly minimumBlockSize: number;
  /** Bytes. */
  readonly preferredBlockSize: number;
  /** Bytes; of one READ or WRITE. */
  readonly maximumBlockSize: number;
}

/**
 * Always multi-connection: all connections of an export share its one volume, which has no cache of its own per
 * connection. TRIM and WRITE_ZEROES are writes and not offered on a read-only export. DF is about chunks.
 */
function transmissionFlags(export_: ListedExport, features: Features): number {
  let flags =
    TransmissionFlag.hasFlags |
    TransmissionFlag.sendFlush |
    TransmissionFlag.sendFua |
    TransmissionFlag.canMultiConn |
    TransmissionFlag.sendCache;
  if (features.structuredReplies) flags |= TransmissionFlag.sendDf;
  if (features.extendedHeaders && features.contexts.length > 0) flags |= TransmissionFlag.blockStatusPayload;
  if (export_.readOnly) return flags | TransmissionFlag.readOnly;
  flags |= TransmissionFlag.sendWriteZeroes | TransmissionFlag.sendFastZero;
  return export_.canTrim ? flags | TransmissionFlag.sendTrim : flags;
}

/** Takes the snapshot that a client is shown, who agreed on `features`. */
export function describeExport(export_: ListedExport, features: Features = PLAIN): ExportInfo {
  const { preferredBlockSize: preferred, minimumBlockSize = 1, maximumBlockSize = MAX_PAYLOAD_BYTES } = export_;
  assert(Number.isInteger(Math.log2(minimumBlockSize)) && Number.isInteger(Math.log2(preferred)));
  assert(minimumBlockSize <= preferred && preferred >= 512);
  assert(preferred <= maximumBlockSize && maximumBlockSize <= MAX_PAYLOAD_BYTES);
  assert(export_.name !== '' && Buffer.byteLength(export_.name) <= MAX_STRING_BYTES && !export_.name.includes('\0'));
  return {
    name: export_.name,
    description: export_.description,
    sizeBytes: export_.sizeBytes,
    flags: transmissionFlags(export_, features),
    // Volumes serve any byte range, by read-modify-write where a device has larger blocks: what is demanded is somebody's wish.
    minimumBlockSize,
    preferredBlockSize: preferred,
    maximumBlockSize,
  };
}

/** What holds for the commands of a client who was shown this. */
export function termsOf(features: Features, { minimumBlockSize, maximumBlockSize, flags }: ExportInfo): Terms {
  const trims = (flags & TransmissionFlag.sendTrim) !== 0;
  return { ...features, minimumBlockSize, maximumBlockSize, trims };
}
