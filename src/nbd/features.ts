/**
 * What a client and this server agreed on besides the export: decided in the handshake, obeyed in the transmission phase,
 * which may be another process.
 *
 * Invariant: plain data.
 */
export interface Features {
  /** READs are answered in chunks, and errors carry a text. */
  readonly structuredReplies: boolean;
  /** `base:allocation` was selected for the export: BLOCK_STATUS tells of it. Only with structured replies. */
  readonly allocation: boolean;
}

/** A client that asked for nothing. */
export const PLAIN: Features = { structuredReplies: false, allocation: false };
