/** Names of new volume groups, and what LVM2 says of bad ones (facts: LVM2 lib/misc/lvm-string.c, lib/display/display.c). */

const MAX_NAME = 127;

/** Why a name is none; null if it is one. */
export function nameProblem(name: string): string | null {
  if (name === '') return 'Name is zero length.';
  if (name.startsWith('-')) return 'Name cannot start with hyphen.';
  if (name === '.' || name === '..') return 'Name starts with . or .. and has no following character(s).';
  if (!/^[A-Za-z0-9.+_-]+$/.test(name)) {
    return 'Name contains invalid character, valid set includes: [a-zA-Z0-9.-_+].';
  }
  return name.length > MAX_NAME ? `Name length exceeds maximum limit of ${MAX_NAME}.` : null;
}
