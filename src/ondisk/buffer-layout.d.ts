/**
 * The part of buffer-layout that layout.ts uses; the package brings no types of its own.
 */
declare module 'buffer-layout' {
  export class Layout<T> {
    /** Bytes that an encoded value takes. */
    readonly span: number;
    readonly property: string | undefined;
    decode(bytes: Uint8Array, offset?: number): T;
    encode(value: T, bytes: Uint8Array, offset?: number): number;
  }
  export function u32(property: string): Layout<number>;
  export function blob(length: number, property: string): Layout<Uint8Array>;
  export function struct<T>(fields: readonly Layout<unknown>[], property?: string): Layout<T>;
  export function seq<T>(element: Layout<T>, count: number, property: string): Layout<T[]>;
}
