// The system's <vulkan/vulkan.hpp>, and the three types of VK_EXT_layer_settings for headers older than 1.3.272, which ggml-vulkan.cpp
// names when it makes its instance. They describe settings of the validation layer and do nothing where that layer is not asked for.
#pragma once
#include_next <vulkan/vulkan.hpp>

#if VK_HEADER_VERSION < 272
#include <cstdint>
#include <vector>

namespace vk {

enum class LayerSettingTypeEXT : std::int32_t { eBool32 = 0 };

// Laid out as VkLayerSettingEXT.
struct LayerSettingEXT {
    const char * pLayerName;
    const char * pSettingName;
    LayerSettingTypeEXT type;
    std::uint32_t valueCount;
    const void * pValues;
};

// Laid out as VkLayerSettingsCreateInfoEXT; the number is VK_STRUCTURE_TYPE_LAYER_SETTINGS_CREATE_INFO_EXT.
struct LayerSettingsCreateInfoEXT {
    StructureType sType = static_cast<StructureType>(1000496000);
    const void * pNext = nullptr;
    std::uint32_t settingCount;
    const LayerSettingEXT * pSettings;

    LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : settingCount(static_cast<std::uint32_t>(settings.size())), pSettings(settings.data()) {}
};

}  // namespace vk
#endif
