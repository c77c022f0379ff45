/**
 * What a client and this server agreed on besides the export: decided in the handshake, obeyed in the transmission phase,
 * which may be another process.
 *
 * Invariants: plain data; extended headers include structured replies; contexts are selected only with one of them.
 */
import { MAX_PAYLOAD_BYTES } from './constants.ts';

/** A meta context that was selected for the export. */
export interface SelectedContext {
  /** What it is called in replies: from 1, unlike any other of the client's. */
  readonly id: number;
  readonly name: string;
}

export interface Features {
  /** READs are answered in chunks, and errors carry a text. */
  readonly structuredReplies: boolean;
  /** Requests and replies have headers of 32 bytes, and lengths of 64 bits. */
  readonly extendedHeaders: boolean;
  /** BLOCK_STATUS tells of these; none: it is refused. */
  readonly contexts: readonly SelectedContext[];
}

/** A client that asked for nothing. */
export const PLAIN: Features = { structuredReplies: false, extendedHeaders: false, contexts: [] };

/** What holds for a client's commands: what was agreed on, and the block sizes that its export was shown with. */
export interface Terms extends Features {
  /** Bytes; offsets and lengths must be multiples of it. */
  readonly minimumBlockSize: number;
  /** Bytes of one READ's or WRITE's data. */
  readonly maximumBlockSize: number;
  /** TRIM was offered: then it is taken for good, also while the volume can't (an origin of snapshots), and does nothing. */
  readonly trims: boolean;
}

/** Those of a client that asked for nothing, on an export like any other. */
export const PLAIN_TERMS: Terms = {
  ...PLAIN,
  minimumBlockSize: 1,
  maximumBlockSize: MAX_PAYLOAD_BYTES,
  trims: false,
};
