// @ts-check
// Requests for plain.mjs: the numbers of an id rise, so that the server sees one that comes twice.
import { get, same } from './workload.mjs'

/** No client of another kind has such an id. */
const FIRST_ID = 20_000_000

/** @param {number} id @param {number} number */
export function numbered(id, number) {
  return get(`/n/${id}/${number}`, body => same(`request ${number}`, body, `${id} ${number}\n`))
}

/** Reads only. An id is used again when its request is over. @returns {import('./workload.mjs').Workload} */
export function numberedWorkload() {
  /** @type {number[]} */
  const free = []
  let ids = FIRST_ID
  /** Counts all requests, so that the numbers rise for each id too. */
  let number = 0
  const read = () => {
    const id = free.pop() ?? ids++
    return { ...numbered(id, ++number), settled: () => void free.push(id) }
  }
  return { read, slow: read, stream: read, write: () => null }
}
