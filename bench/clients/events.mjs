// @ts-check
import { mixed } from './pattern.mjs'

/** Event `number` of the stream `id`, as it is in the body. @param {string} id @param {number} number */
export function eventText(id, number) {
  return `id: ${number}\ndata: ${id} ${'x'.repeat(mixed(Number(id), number) % 200)}\n\n`
}
