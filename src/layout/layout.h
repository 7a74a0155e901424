/* layout.h -- all of layout/ at once. */

#ifndef PH_LAYOUT_H
#define PH_LAYOUT_H

#include "layout/datetime.h"
#include "layout/fields.h"
#include "layout/frames.h"
#include "layout/frozen.h"
#include "layout/immortal.h"
#include "layout/init.h"
#include "layout/inspect.h"
#include "layout/obmalloc.h"
#include "layout/sizes.h"
#include "layout/sources.h"
#include "layout/statics.h"
#include "layout/thread.h"
#include "layout/values.h"

#endif
