// @ts-check
const ASK_MS = 20

/** Resolves when it holds; rejects after `mostMs`. @param {string} what @param {number} mostMs @param {() => boolean | Promise<boolean>} holds */
export async function until(what, mostMs, holds) {
  const end = performance.now() + mostMs
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`not within ${mostMs} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, ASK_MS))
  }
}
