/**
 * LVM2 ids: 32 characters on disk, grouped 6-4-4-4-4-4-6 by dashes when shown and in metadata texts.
 *
 * Invariants
 *  - The display form is canonical: two ids are equal exactly when their display forms are.
 *  - Reading accepts LVM2's whole alphabet (62 alphanumerics, "!" and "#") and dashes anywhere, as LVM2 does; new ids use
 *    only the alphanumerics.
 *
 * Source: lvm2 lib/id/id.c.
 */
import { randomBytes } from 'node:crypto';

const RAW_LENGTH = 32;
const NEW_ID_ALPHABET = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';
const RAW = /^[0-9a-zA-Z!#]{32}$/;

/** The 32-character form for a display form or a raw one; null if `text` is no id. */
export function parseUuid(text: string): string | null {
  const raw = text.length === RAW_LENGTH ? text : text.replaceAll('-', '');
  return RAW.test(raw) ? raw : null;
}

/** Whether `text` is an id, in any form that LVM2 reads. */
export function isUuid(text: string): boolean {
  return parseUuid(text) !== null;
}

/** The display form of a 32-character id. */
export function formatUuid(raw: string): string {
  const groups = [raw.slice(0, 6)];
  for (let at = 6; at < 26; at += 4) groups.push(raw.slice(at, at + 4));
  groups.push(raw.slice(26));
  return groups.join('-');
}

/** A new random id in display form. */
export function newUuid(): string {
  let raw = '';
  while (raw.length < RAW_LENGTH) {
    for (const byte of randomBytes(RAW_LENGTH)) {
      // 248 is the largest multiple of 62 in a byte: taking the rest too would favour the first letters.
      if (byte < 248 && raw.length < RAW_LENGTH) raw += NEW_ID_ALPHABET.charAt(byte % 62);
    }
  }
  return formatUuid(raw);
}
