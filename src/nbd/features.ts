/**
 * What a client and this server agreed on besides the export: decided in the handshake, obeyed in the transmission phase,
 * which may be another process.
 *
 * Invariants: plain data; extended headers include structured replies; contexts are selected only with one of them.
 */

/** A meta context that was selected for the export. */
export interface SelectedContext {
  /** What it is called in replies: from 1, unlike any other of the client's. */
  readonly id: number;
  readonly name: string;
}

export interface Features {
  /** READs are answered in chunks, and errors carry a text. */
  readonly structuredReplies: boolean;
  /** BLOCK_STATUS tells of these; none: it is refused. */
  readonly contexts: readonly SelectedContext[];
}

/** A client that asked for nothing. */
export const PLAIN: Features = { structuredReplies: false, contexts: [] };
