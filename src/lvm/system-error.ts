/**
 * What the operating system refused, in the words that LVM2 prints: the C library's, without the path and the call that Node adds
 * (the messages of the commands name the path themselves).
 */
import { getSystemErrorMessage } from 'node:util';

/** Where Node's words for an error are not the C library's. */
const C_LIBRARY: Readonly<Record<string, string>> = {
  EBUSY: 'Device or resource busy',
  EEXIST: 'File exists',
  EIO: 'Input/output error',
  EISDIR: 'Is a directory',
  ELOOP: 'Too many levels of symbolic links',
  ENAMETOOLONG: 'File name too long',
  ENOTEMPTY: 'Directory not empty',
};

/** "No such file or directory"; the message of an error that is not the system's. */
export function systemWords(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code, errno }: NodeJS.ErrnoException = error;
  if (code === undefined || errno === undefined || errno >= 0) return error.message;
  const words = C_LIBRARY[code] ?? getSystemErrorMessage(errno);
  return words.charAt(0).toUpperCase() + words.slice(1);
}
