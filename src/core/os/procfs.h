/* procfs.h -- the text of small files in /proc and /sys, for the files of this folder. */

#ifndef PH_OS_PROCFS_H
#define PH_OS_PROCFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Read a file into `buf` and end the text with a zero byte.  Text that does not fit
   is cut off.  Returns false if the file cannot be read or is empty. */
bool ph_os_read_text(const char *path, char *buf, size_t size);

/* Read the number at the start of the file dir/file.  Returns false if there is no such
   file, or no number in it. */
bool ph_os_read_number(const char *dir, const char *file, uint64_t *p_value);

/* Return the number behind `key` in the line of the text that begins with `key`, or 0. */
uint64_t ph_os_find_number(const char *text, const char *key);

#endif
